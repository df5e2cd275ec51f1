import assert from "node:assert/strict";

/** Waits for what happens by itself; a loaded machine is slow, so the end is far. */
export async function until(holds: () => Promise<boolean>, withinMs = 20_000): Promise<void> {
  const end = performance.now() + withinMs;
  while (!(await holds())) {
    assert.ok(performance.now() < end, `it happens within ${withinMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
