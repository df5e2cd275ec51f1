/** The day's statements, as simpay writes them or falsifies them when it is asked to, and what their reconciliation finds. */
import assert from "node:assert/strict";
import type { Id } from "../../domain/ids.ts";
import { dayAt } from "../../domain/recon/difference.ts";
import { makeTokens } from "../../mixins/tokens.ts";
import { getStatement } from "../../services/recon/recon.contract.ts";
import type { Falsified } from "../../simpay/records.ts";
import type { ChannelShop } from "./channel-shop.ts";
import { ADMIN } from "./market.ts";
import { callAs } from "./node.ts";
import { eventually } from "./shop.ts";

const tokens = makeTokens("a secret of tests, with more than 32 bytes");
export type Statement = Awaited<ReturnType<Statements["find"]>>;

export class Statements {
  readonly #town: ChannelShop;
  /** The Chinese day on which everything happens. */
  readonly day = dayAt(Date.now());

  constructor(town: ChannelShop) {
    this.#town = town;
  }

  find(id: string, of: { class?: "SHORT" | "LONG"; limit?: number; cursor?: string } = {}) {
    return callAs(this.#town.shop.test.node, getStatement, { id: id as Id, limit: 100, ...of }, ADMIN);
  }
  async done(id: string): Promise<Statement> {
    await eventually(async () => assert.match((await this.find(id)).status, /^(DONE|FAILED)$/), 30_000);
    return this.find(id);
  }
  async upload(body: string | Buffer, of: { day?: string; channel?: string; type?: string } = {}) {
    const query = new URLSearchParams({ channel: of.channel ?? "simpay", date: of.day ?? this.day });
    const answer = await fetch(`${this.#town.base}/api/v1/recon/statements?${query.toString()}`, {
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
    return { authorization: `Bearer ${await tokens.sign(ADMIN, 600)}` };
  }

  async fetched(): Promise<string> {
    return (await this.#town.simpay.raw("GET", `/v1/statements/${this.day}`)).text();
  }
  /** With every kind of lie that was asked for; which lines are struck is a matter of the seed. */
  async liedTo(chance: Readonly<Record<string, number>>): Promise<{ body: string; lies: string[] }> {
    for (let seed = 0; ; seed++) {
      await this.#town.simpay.plan({ seed: `recon ${seed}`, chance });
      const body = await this.fetched();
      await this.#town.strike();
      const last = (await this.#town.simpay.log()).findLast((line) => line.event === "statement.falsified");
      const lines = last?.event === "statement.falsified" ? last.lines : [];
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
