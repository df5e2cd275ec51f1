/**
 * Passwords by argon2id, off the event loop and a few at a time. A hash takes 20 to 40 ms of one thread and 19 MiB (OWASP's first choice:
 * m = 19 MiB, t = 2, p = 1, the library's default). Node has four such threads and needs them for files and name look-ups as well: two hashes
 * at once leave it two. A flood of registrations waits in a bounded line, and past it is told to come again.
 */
import { hash, verify } from "@node-rs/argon2";
import { randomBytes } from "node:crypto";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";

const AT_ONCE_MAX = 2;
/** At 50 a second the last in line waits five seconds: half of what a client waits for any answer. */
const WAITING_MAX = 256;

export class Passwords {
  /** What an unknown user's password is compared with, so that the time of an answer does not tell who has an account. */
  readonly #nobody: Promise<string>;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor() {
    this.#nobody = hash(randomBytes(16));
  }

  hash(password: string): Promise<string> {
    return this.#inTurn(() => hash(password));
  }

  /** Whether the password is the stored one; without a stored one it costs the same, and is not. */
  verify(stored: string | undefined, password: string): Promise<boolean> {
    return this.#inTurn(async () => {
      const same = await verify(stored ?? (await this.#nobody), password);
      return same && stored !== undefined;
    });
  }

  async #inTurn<R>(work: () => Promise<R>): Promise<R> {
    if (this.#running >= AT_ONCE_MAX) {
      if (this.#waiting.length >= WAITING_MAX) return raise(COMMON_ERRORS, "OVERLOADED", { retryAfterSeconds: 2 });
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else this.#running++;
    try {
      return await work();
    } finally {
      const nextInLine = this.#waiting.shift();
      if (nextInLine) nextInLine();
      else this.#running--;
    }
  }
}
