/** The books of a bar in memory: every transfer through the ledger's own rule, which keeps its invariants. */
import assert from "node:assert/strict";
import type { TransferId } from "../../../domain/ids.ts";
import { CHAIN_START, EMPTY, postTransfers, type Balance, type TransferRequest } from "../../../domain/ledger.ts";
import type { Fen } from "../../../domain/money.ts";

export const post = (code: TransferRequest["code"], businessKey: string, debit: string, credit: string, amount: Fen): TransferRequest => ({
  kind: "post",
  code,
  businessKey,
  debit,
  credit,
  amount,
  fresh: true,
});

export class RuleBooks {
  readonly #balances = new Map<string, Balance>();
  #head = CHAIN_START;
  #ids = 0;

  book(requests: readonly TransferRequest[]): void {
    assert.ok(this.try(requests), "there is money for it");
  }
  /** False where a floor is in the way. */
  try(requests: readonly TransferRequest[]): boolean {
    const accounts = new Set(requests.flatMap(({ debit, credit }) => [debit, credit]));
    const balances = new Map([...accounts].map((account) => [account, this.#balances.get(account) ?? EMPTY]));
    const ids = requests.map(() => String(++this.#ids) as TransferId);
    const at = new Date(0);
    const { outcomes, changes, head } = postTransfers({ slot: 0, at, head: this.#head, balances, recorded: [], ids }, requests);
    if (!outcomes.every(({ ok }) => ok)) return false;
    this.#head = head;
    for (const [account, by] of changes) {
      const { debitsPosted, creditsPosted } = this.#balances.get(account) ?? EMPTY;
      this.#balances.set(account, {
        ...EMPTY,
        debitsPosted: debitsPosted + by.debitsPosted,
        creditsPosted: creditsPosted + by.creditsPosted,
      });
    }
    return true;
  }
  /** Credits less debits of every account that holds something; accounts of the bar go without its number. */
  view(): Map<string, number> {
    const held = [...this.#balances].flatMap(([account, { creditsPosted, debitsPosted }]): [string, number][] => {
      const left = Number(creditsPosted - debitsPosted);
      return left === 0 ? [] : [[account.replace(/:\d+$/, ""), left]];
    });
    return new Map(held.sort(([a], [b]) => (a < b ? -1 : 1)));
  }
}
