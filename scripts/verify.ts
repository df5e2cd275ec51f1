/**
 * `npm run verify [-- --every seconds] [--url http://…]`: asks a running server for `/ops/verify` and shows it as a table; exit 1 when something
 * does not hold, or cannot be asked. With `--every` it goes on, also under load, one line a run, until something does not hold or it is stopped.
 * Also of `npm run cluster`.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Operator } from "./operator.ts";
import { readSettings } from "./settings.ts";
import { StartError } from "./start-error.ts";

interface Verification {
  readonly ok: boolean;
  readonly checkedAt: string;
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly violations: number; readonly detail: string }[];
}

function table({ checks, checkedAt }: Verification): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  const lines = checks.map(({ name, ok, violations, detail }) =>
    ok
      ? `  ok  ${name.padEnd(width)}  ${detail}`
      : `FAIL  ${name.padEnd(width)}  ${violations} rows; ${detail.replaceAll("\n", `\n${" ".repeat(8)}`)}`,
  );
  return [...lines, "", `${checks.length} checks of ${checkedAt}, ${checks.filter(({ ok }) => !ok).length} do not hold`].join("\n");
}

function options(): { url: string | undefined; everyMs: number | undefined } {
  const { values } = parseArgs({ options: { every: { type: "string" }, url: { type: "string" } } });
  const every = values.every === undefined ? undefined : Number(values.every);
  if (every !== undefined && !(every > 0 && every <= 86_400)) throw new StartError("--every is a number of seconds, at most a day");
  return { url: values.url, everyMs: every === undefined ? undefined : every * 1_000 };
}

async function main(): Promise<void> {
  const { url, everyMs } = options();
  const operator = new Operator(readSettings(), url);
  for (;;) {
    const startedMs = performance.now();
    const verification = await operator.ask<Verification>("GET", "/ops/verify");
    const tookMs = performance.now() - startedMs;
    if (!verification.ok) process.exitCode = 1;
    if (everyMs === undefined || !verification.ok) return void process.stdout.write(`${table(verification)}\n`);
    process.stdout.write(`${verification.checkedAt}  ${verification.checks.length} checks hold  ${(tookMs / 1_000).toFixed(1)} s\n`);
    // From start to start; a run that takes longer is followed by the next at once.
    await sleep(Math.max(0, everyMs - tookMs));
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
