/** The bench's side of the load generator. */
import { fork, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Order, Report, Run, RunResult } from "./generator.ts";

export class Generator {
  readonly #child: ChildProcess;

  constructor() {
    this.#child = fork(fileURLToPath(new URL("./generator.ts", import.meta.url)), {
      serialization: "advanced",
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async sign(jwtSecret: string, shoppers: number): Promise<void> {
    await this.#ask({ sign: { jwtSecret, shoppers } }, () => undefined);
  }

  /** `onWindow` is told when the measured window opens and closes. */
  async run(run: Run, onWindow: (at: "open" | "closed") => void = () => undefined): Promise<RunResult> {
    const report = await this.#ask({ run }, onWindow);
    if (!("done" in report)) throw new Error("the generator answers a run with its result");
    return report.done;
  }

  /** To the run under way. `mark`: something was broken just now, tell how long nobody could buy; `finish`: close the window. */
  say(word: "mark" | "finish"): void {
    this.#child.send({ during: word } satisfies Order);
  }

  stop(): void {
    this.#child.kill();
  }

  #ask(order: Order, onWindow: (at: "open" | "closed") => void): Promise<Report> {
    return new Promise((resolve, reject) => {
      const settle = (run: () => void): void => {
        this.#child.off("message", hear).off("exit", died);
        run();
      };
      const hear = (report: Report): void => {
        if ("window" in report) onWindow(report.window);
        else if ("failed" in report) settle(() => reject(new Error(`the load generator failed: ${report.failed}`)));
        else settle(() => resolve(report));
      };
      const died = (): void => settle(() => reject(new Error("the load generator died")));
      this.#child.on("message", hear).once("exit", died);
      this.#child.send(order);
    });
  }
}
