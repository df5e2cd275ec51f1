/** The day's statements, as simpay writes them or falsifies them when it is asked to, and what their reconciliation finds. */
import assert from "node:assert/strict";
import { dayAt } from "../../domain/recon/difference.ts";
import type { Of } from "../../mixins/contract.ts";
import type { ReconStatement } from "../../services/recon/recon.contract.ts";
import type { Falsified } from "../../simpay/records.ts";
import { eventually } from "./shop.ts";
import type { TestSimpay } from "./simpay.ts";

export type Statement = Of<typeof ReconStatement>;
/** A platform known by its door, one process or many, and the channel outside. */
export interface Place {
  readonly base: string;
  readonly simpay: TestSimpay;
  /** Of an administrator. */
  readonly token: () => Promise<string>;
}

export class Statements {
  readonly #place: Place;
  /** The Chinese day on which everything happens. */
  readonly day = dayAt(Date.now());

  constructor(place: Place) {
    this.#place = place;
  }

  /** With all of its differences, page after page. */
  async find(id: string): Promise<Statement> {
    const differences: Statement["differences"] = [];
    for (let cursor = ""; ;) {
      const url = `${this.#place.base}/api/v1/recon/statements/${id}?limit=100${cursor}`;
      const answer = await fetch(url, { headers: await this.authorization() });
      const body = (await answer.json()) as Statement;
      assert.equal(answer.status, 200, JSON.stringify(body));
      differences.push(...body.differences);
      if (typeof body.nextCursor !== "string") return { ...body, differences };
      cursor = `&cursor=${body.nextCursor}`;
    }
  }
  async done(id: string): Promise<Statement> {
    await eventually(async () => assert.match((await this.find(id)).status, /^(DONE|FAILED)$/), 30_000);
    return this.find(id);
  }
  async upload(body: string | Buffer, of: { day?: string; channel?: string; type?: string } = {}) {
    const query = new URLSearchParams({ channel: of.channel ?? "simpay", date: of.day ?? this.day });
    const answer = await fetch(`${this.#place.base}/api/v1/recon/statements?${query.toString()}`, {
      method: "POST",
      headers: { ...(await this.authorization()), "content-type": of.type ?? "text/csv" },
      body: typeof body === "string" ? body : new Uint8Array(body),
    });
    return { status: answer.status, body: (await answer.json()) as { id: string; code?: string; detail?: string } };
  }
  async reconciled(body: string | Buffer, type?: string): Promise<Statement> {
    const taken = await this.upload(body, type === undefined ? {} : { type });
    assert.equal(taken.status, 202, JSON.stringify(taken.body));
    return this.done(taken.body.id);
  }
  async authorization(): Promise<{ authorization: string }> {
    return { authorization: `Bearer ${await this.#place.token()}` };
  }

  async fetched(): Promise<string> {
    return (await this.#place.simpay.raw("GET", `/v1/statements/${this.day}`)).text();
  }
  /** With every kind of lie that was asked for; which lines are struck is a matter of the seed. */
  async liedTo(chance: Readonly<Record<string, number>>): Promise<{ body: string; lies: string[] }> {
    const told = async () => (await this.#place.simpay.log()).flatMap((line) => (line.event === "statement.falsified" ? line.lines : []));
    for (let seed = 0; ; seed++) {
      const before = await told();
      await this.#place.simpay.plan({ seed: `recon ${seed}`, chance });
      const body = await this.fetched();
      await this.#place.simpay.plan({});
      const lines = (await told()).slice(before.length);
      if (new Set(lines.map(({ how }) => how)).size === Object.keys(chance).length) return { body, lies: named(lines) };
    }
  }
}

export const counted = ({ counts }: Statement): Record<string, number> =>
  Object.fromEntries(counts.flatMap((one) => (one.count === 0 ? [] : [[one.class, one.count]])));

const CLASS_OF = { missing: "SHORT", extra: "LONG", doubled: "DUPLICATE", altered: "AMOUNT" } as const;
/** Lies, each as the class of difference it must be found as and the channel's number. */
const named = (lines: readonly Falsified[]): string[] =>
  lines.map(({ how, channelNumber }) => `${CLASS_OF[how]} ${channelNumber}`).toSorted();
/** What was found, in the same words. A payment of these minutes may be near to midnight. */
export const found = ({ differences }: Statement): string[] =>
  differences.map((one) => `${one.class === "TIMING" ? "SHORT" : one.class} ${one.channelNumber}`).toSorted();
