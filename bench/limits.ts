/** The CPU limit of a durable order (docs/benchmarks.md): what HTTP, PostgreSQL and the generator burn for one when nothing else is done. */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Generator } from "./load/client.ts";
import type { BatchReport, Batches } from "./limit/sql-batches.ts";
import { cpuAccount, minus, postgresSeconds, postmasterOf, type CpuAccount, type Watched } from "./processes.ts";
import { ServerProcess, type Place } from "./server-process.ts";

/** CPU seconds for one order. */
export interface HttpFloor {
  readonly http: number;
  readonly generator: number;
  readonly perSecond: number;
}

/** Bare `node:http` under the same generator, connections and requests. */
export async function httpFloor(
  place: Place,
  generator: Generator,
  load: { connections: number; dealId: string; shoppers: number; warmSeconds: number; seconds: number },
): Promise<HttpFloor> {
  const server = await ServerProcess.start(["bench/limit/bare-http.ts"], place);
  try {
    const watched: Watched = { server: server.pid, generator: generator.pid, postmaster: undefined };
    let before: CpuAccount | undefined;
    let after: CpuAccount | undefined;
    const { connections, dealId, shoppers, warmSeconds, seconds } = load;
    const result = await generator.run(
      {
        id: "bare",
        ports: [server.port],
        connections,
        warmSeconds,
        seconds,
        plan: { kind: "orders", deals: [dealId], exponent: 0, firstShopper: 0, shoppers },
      },
      (window) => {
        if (window === "open") before = cpuAccount(watched);
        else after = cpuAccount(watched);
      },
    );
    if (!before || !after) throw new Error("the generator opens and closes its window");
    const cpu = minus(after, before);
    return {
      http: cpu.server / result.ordersInWindow,
      generator: cpu.generator / result.ordersInWindow,
      perSecond: result.ordersInWindow / result.seconds,
    };
  } finally {
    await server.stop();
  }
}

/** PostgreSQL's CPU seconds for one order when the drain's statements come in batches of `size`. */
export async function sqlFloor(batches: Batches): Promise<{ sql: number; orders: number; perSecond: number }> {
  const child = fork(fileURLToPath(new URL("./limit/sql-batches.ts", import.meta.url)), { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  const ended = new Promise<never>((_, reject) => child.once("exit", (code) => reject(new Error(`the SQL batches ended with ${code}`))));
  ended.catch(() => undefined);
  const next = (): Promise<BatchReport> => Promise.race([new Promise<BatchReport>((resolve) => child.once("message", resolve)), ended]);
  const cpu = (): CpuAccount => cpuAccount({ server: child.pid ?? 0, generator: 0, postmaster: postmasterOf(child.pid ?? 0) });
  child.send(batches);
  await next();
  const before = cpu();
  const report = await next();
  const after = cpu();
  child.send("stop");
  await ended.catch(() => undefined);
  if (report.window !== "closed") throw new Error("a window closes after it opened");
  return { sql: postgresSeconds(minus(after, before)) / report.orders, orders: report.orders, perSecond: report.orders / report.seconds };
}
