/**
 * A policy's trial: loaded and asked in a thread of its own, which is ended when it takes too long. Code that never returns can be cut off
 * there and nowhere else; only what has passed is loaded into the node.
 */
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { regionFaults } from "./conformance.ts";

/** A thread starts in 100 ms on a busy machine; the kit takes ten. */
const TRIAL_MS = 5_000;

interface Trial {
  readonly url: string;
  readonly region: string;
  readonly version: string;
}

/** What is wrong with the module; empty where it may be used. */
export function tryModule(trial: Trial): Promise<string[]> {
  return new Promise((resolve) => {
    const worker = new Worker(new URL(import.meta.url), { workerData: trial, env: {}, stdout: true, stderr: true });
    const end = (faults: string[]): void => {
      clearTimeout(late);
      resolve(faults);
      void worker.terminate();
    };
    const late = setTimeout(() => end([`it has not answered within ${TRIAL_MS} ms`]), TRIAL_MS);
    worker.once("message", (faults: string[]) => end(faults));
    worker.once("error", (error) => end([`it cannot be loaded: ${error instanceof Error ? error.message : String(error)}`]));
    worker.once("exit", () => end(["it ends the process"]));
  });
}

async function run(): Promise<void> {
  const { url, region, version } = workerData as Trial;
  const { default: policy } = (await import(url)) as { default?: unknown };
  parentPort?.postMessage(regionFaults(policy, { region, version }));
}
if (!isMainThread && workerData !== null && typeof workerData === "object" && "url" in workerData) await run();
