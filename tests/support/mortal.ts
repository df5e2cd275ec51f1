/** A program that ends where its failpoints are: the whole platform, or one node of a cluster. */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import type { ServiceName } from "../../moleculer.config.ts";
import { Server } from "./server.ts";

/** One request may be struck ten times on its way, and a loaded machine takes half a minute for a start. */
export const PATIENCE_MS = 300_000;

export class Mortal extends Server {
  readonly name: string;
  readonly services: readonly ServiceName[];
  protected override parameters = ["--local"];
  protected override readonly patienceMs = PATIENCE_MS;
  #child: ChildProcess | undefined;
  /** The signal it died by, once it has. */
  died: Promise<NodeJS.Signals | null> = Promise.resolve(null);

  constructor(name: string, services: readonly ServiceName[], environment: ConstructorParameters<typeof Server>[0]) {
    super(environment);
    this.name = name;
    this.services = services;
  }

  /** It will die at the first of the steps that it passes. Returns at once. */
  live(failpoints: Iterable<string>, publicUrl: string): void {
    this.more = { FAILPOINT: [...failpoints].join(", "), PUBLIC_URL: publicUrl };
    this.output = "";
    this.#child = this.spawn();
    // Closed: everything it said has been read.
    this.died = (once(this.#child, "close") as Promise<[number | null, NodeJS.Signals | null]>).then(([, signal]) => signal);
  }

  /** Where it died by itself: it says so. */
  get diedAt(): string {
    const [, step] = /^killed (.+)$/m.exec(this.output) ?? [];
    assert.ok(step, `${this.name} lives until it is killed; it said:\n${this.output}`);
    return step;
  }

  /** Killed by us, unless it is dead already. */
  end(): Promise<unknown> {
    this.#child?.kill("SIGKILL");
    return this.died;
  }
}
