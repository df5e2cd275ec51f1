/** Moves slots, one move at a time: finds out where a move stands, goes on from there, and tells how far it is. The steps are in `move-steps.ts`. */
import type { Logger, ServiceBroker } from "moleculer";
import type pg from "pg";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import { SLOT_COUNT } from "../../domain/ids.ts";
import { OPS_ERRORS } from "../../domain/ops/errors.ts";
import { displayName, slotRange, writeSlots, type Keyspace } from "../../db/keyspaces.ts";
import { connectForMove, ensureDatabase, moveName } from "../../db/move-copy.ts";
import { readMarks, type SlotMark, unfenceSlots } from "../../db/move-fence.ts";
import type { Of } from "../../mixins/contract.ts";
import type { Platform } from "../../mixins/platform.ts";
import { Everywhere } from "./everywhere.ts";
import { abort, type Move, STEPS } from "./move-steps.ts";
import type { MoveView } from "./ops.contract.ts";

type View = Of<typeof MoveView>;
/** What is asked for, as an operator writes it. */
export interface Wish {
  readonly city: string;
  readonly slots: string;
  readonly to: string;
}

/** "move" in ASCII: held at the source for as long as a move runs, so that only one does. */
const MOVE_LOCK = 0x6d6f7665;
const DATABASE_NAME = /^[a-z][a-z0-9_]{0,62}$/;
const ALL_SLOTS = Array.from({ length: SLOT_COUNT }, (_, slot) => slot);

export class Mover {
  readonly #broker: ServiceBroker;
  readonly #platform: Platform;
  readonly #logger: Logger;
  readonly #entered: (step: string) => void;
  readonly #stopping = new AbortController();
  #last: View | undefined;
  #running: Promise<void> | undefined;
  /** Interrupts the move under way, and it alone. */
  #interrupting = new AbortController();

  /** `entered` hears of each step before it is done. */
  constructor(broker: ServiceBroker, platform: Platform, logger: Logger, entered: (step: string) => void = () => undefined) {
    this.#broker = broker;
    this.#platform = platform;
    this.#logger = logger;
    this.#entered = entered;
  }

  /** The last one, or the one that runs. */
  get last(): View | undefined {
    return this.#last && { ...this.#last };
  }

  /** Ends the move that runs here, if it is this one and not decided yet. Resolves when it has ended, either way. */
  async interrupt(wish: Wish): Promise<void> {
    const { keyspace, slots, to } = this.#understand(wish);
    const last = this.#last;
    if (!this.#running || last?.city !== keyspace.code || last.slots !== writeSlots(slots) || last.to !== displayName(to)) return;
    this.#interrupting.abort(new Error("it is taken back"));
    await this.#running;
  }

  /** Resolves when it is known that it can be done, and is under way. */
  async begin(wish: Wish, action: View["action"]): Promise<View> {
    if (this.#last?.state === "running") {
      return raise(OPS_ERRORS, "MOVE_IN_PROGRESS", { what: `slots ${this.#last.slots} of ${this.#last.city} are moving` });
    }
    const { keyspace, slots, to } = this.#understand(wish);
    const view: View = {
      city: keyspace.code,
      slots: writeSlots(slots),
      from: "",
      to: displayName(to),
      action,
      state: "running",
      step: "look",
      detail: "",
      startedAt: new Date().toISOString(),
    };
    this.#last = view;
    this.#interrupting = new AbortController();
    try {
      return await this.#start(view, keyspace, slots, to);
    } catch (error) {
      view.state = "failed";
      view.detail = messageOf(error);
      throw error;
    }
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  /** Waits for its end. */
  async ended(): Promise<View | undefined> {
    await this.#running;
    return this.last;
  }

  #understand(wish: Wish): { readonly keyspace: Keyspace; readonly slots: readonly number[]; readonly to: string } {
    const keyspace = this.#platform.keyspaces.byCode(wish.city) ?? raise(COMMON_ERRORS, "CITY_NOT_FOUND", { city: wish.city });
    const slots = [...new Set(slotRange(wish.slots) ?? refuse(`slots are numbers or ranges from 0 to 15, not ${wish.slots}`))].sort(
      (a, b) => a - b,
    );
    return { keyspace, slots, to: this.#placeOf(wish.to, keyspace, slots) };
  }

  /** As the routing table will name it. Where that has URLs, a plain name is one of the city's own, or that of a database beside the one that has the slots. */
  #placeOf(asked: string, keyspace: Keyspace, slots: readonly number[]): string {
    if (URL.canParse(asked) ? !/^postgres(ql)?:$/.test(new URL(asked).protocol) : !DATABASE_NAME.test(asked))
      refuse(`not a database: ${displayName(asked)}`);
    const named = keyspace.databases.find((name) => displayName(name).endsWith(`/${asked}`));
    const to = URL.canParse(this.#platform.urlOf(asked)) ? asked : (named ?? beside(keyspace.databases[slots[0] ?? 0] ?? "", asked));
    for (const { name, keyspace: owner } of this.#platform.keyspaces.databases()) {
      if (owner.id !== keyspace.id && name === to) refuse(`${displayName(to)} is a database of ${owner.code}`);
      // Streams and metrics go by what is shown.
      if (name !== to && displayName(name) === displayName(to)) refuse(`there is a ${displayName(to)} already, on another server`);
    }
    return to;
  }

  async #start(view: View, keyspace: Keyspace, slots: readonly number[], to: string): Promise<View> {
    const target = await connectToTarget(this.#platform.urlOf(to), to);
    const clients = [target];
    const close = async (): Promise<void> => void (await Promise.allSettled(clients.map((client) => client.end())));
    try {
      const from = await this.#sourceOf(keyspace, slots, to, target);
      view.from = displayName(from);
      if (from === to) {
        view.state = "done";
        view.detail = "they are there already";
        await close();
        return { ...view };
      }
      const source = await connectForMove(this.#platform.urlOf(from));
      clients.push(source);
      const everywhere = new Everywhere(this.#broker, keyspace.id, slots, this.#logger);
      const move: Move = {
        source,
        sourceUrl: this.#platform.urlOf(from),
        target,
        city: keyspace.id,
        slots,
        name: moveName(keyspace.id, slots, from, to),
        keyspace,
        from,
        to,
        platform: this.#platform,
        everywhere,
        stopping: AbortSignal.any([this.#stopping.signal, this.#interrupting.signal]),
        tell: (detail) => void (view.detail = detail),
      };
      await lock(source, keyspace);
      const isDecided = await standing(move);
      if (view.action === "abort") {
        if (isDecided) refuse("the move is decided: repeat it to its end, then move the slots back");
        if ((await readMarks(source, slots)).length === 0) refuse("there is no such move");
      }
      this.#running = this.#run(view, move, isDecided)
        .then(close)
        .finally(() => (this.#running = undefined));
      return { ...view };
    } catch (error) {
      await close();
      throw error;
    }
  }

  /** Where the slots come from; `to` itself when they have arrived and everything is cleared up. */
  async #sourceOf(keyspace: Keyspace, slots: readonly number[], to: string, target: pg.Client): Promise<string> {
    const now = [...new Set(slots.map((slot) => keyspace.databases[slot] ?? ""))];
    if (now.length !== 1)
      refuse(`slots ${writeSlots(slots)} are in several databases (${now.map(displayName).join(", ")}): move them one after the other`);
    if (now[0] !== to) return now[0] ?? "";
    const peers = [...new Set((await readMarks(target, slots)).map(({ peer }) => peer))];
    return peers[0] ?? to;
  }

  async #run(view: View, move: Move, isDecided: boolean): Promise<void> {
    let decided = isDecided;
    try {
      if (view.action === "abort") await this.#step(view, "abort", () => abort(move));
      else {
        for (const step of STEPS) {
          if (isDecided && !step.decided) continue;
          // Behind the decision there is only forward; a node that stops leaves the rest to whoever repeats it.
          if (decided) this.#stopping.signal.throwIfAborted();
          else move.stopping.throwIfAborted();
          await this.#step(view, step.name, () => step.run(move));
          decided ||= step.name === "decide";
        }
      }
      view.state = "done";
    } catch (error) {
      view.detail = messageOf(error);
      this.#logger.error({ err: error }, `moving slots ${view.slots} of ${view.city} to ${view.to} failed at: ${view.step}`);
      if (!decided && view.action === "move") await this.#serveOn(move);
      view.state = "failed";
    } finally {
      move.everywhere.letGo();
      if (move.everywhere.heldMs !== undefined) view.heldMs = move.everywhere.heldMs;
    }
  }

  async #step(view: View, name: string, work: () => Promise<void>): Promise<void> {
    view.step = name;
    view.detail = "";
    this.#entered(name);
    await work();
  }

  /** A move that fails before its decision must not cost the slots their service: the source goes on, the copy stays for the next try. */
  async #serveOn({ source, slots, everywhere }: Move): Promise<void> {
    try {
      await unfenceSlots(source, slots, ["leaving", "fenced"], "leaving");
      await everywhere.release();
    } catch (error) {
      this.#logger.error({ err: error }, "the slots stay fenced until the move is repeated or aborted");
    }
  }
}

function beside(url: string, database: string): string {
  const place = new URL(url);
  place.pathname = `/${database}`;
  return place.toString();
}

const refuse = (reason: string): never => raise(OPS_ERRORS, "MOVE_REFUSED", { reason });

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** What is wrong with the target is what the operator asked for, and his to hear. */
async function connectToTarget(url: string, to: string): Promise<pg.Client> {
  try {
    await ensureDatabase(url);
    return await connectForMove(url);
  } catch (error) {
    return refuse(`${displayName(to)} cannot be used: ${messageOf(error)}`);
  }
}

async function lock(source: pg.Client, keyspace: Keyspace): Promise<void> {
  const { rows } = await source.query<{ got: boolean }>("select pg_try_advisory_lock($1, $2) as got", [MOVE_LOCK, keyspace.id]);
  if (!rows[0]?.got) raise(OPS_ERRORS, "MOVE_IN_PROGRESS", { what: `slots of ${keyspace.code} are moving` });
}

/** True when the move is decided; refuses where the marks tell of another one. */
async function standing({ source, target, slots, from, to, keyspace, platform }: Move): Promise<boolean> {
  const isHere = (slot: number): boolean => platform.keyspaces.byCode(keyspace.code)?.databases[slot] === from;
  const isOther = ({ slot, peer }: SlotMark, other: string): boolean => !slots.includes(slot) || peer !== other;
  const unfinished = (mark: SlotMark): boolean =>
    mark.state === "leaving" || mark.state === "fenced" || (mark.state === "moved" && isHere(mark.slot));
  const left = await readMarks(source, ALL_SLOTS);
  const right = await readMarks(target, ALL_SLOTS);
  for (const mark of [
    ...left.filter((some) => unfinished(some) && isOther(some, to)),
    ...left.filter(({ state }) => state === "receiving" || state === "opened"),
    ...right.filter((some) => (some.state === "receiving" || some.state === "opened") && isOther(some, from)),
  ]) {
    refuse(`a move of slot ${mark.slot} with ${displayName(mark.peer)} is not finished (${mark.state}): repeat that one, or abort it`);
  }
  return slots.every((slot) => left.some((mark) => mark.slot === slot && mark.state === "moved" && mark.peer === to));
}
