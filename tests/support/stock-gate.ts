/** What every stock gate must do, whatever it remembers with. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { DomainError } from "../../domain/error.ts";
import { composeId, type Id } from "../../domain/ids.ts";
import { LIMITS } from "../../domain/limits.ts";
import { FRESH_MS, type Entry, type StockFact, type StockGate } from "../../mixins/stock-gate.ts";

let deals = 0;
const newDeal = (): Id => composeId({ ms: 1_780_000_000_000 + ++deals, sequence: 0, city: 1, slot: deals % 16 });
const fact = (dealId: string, available: number, version: number, bucket = 0, of = 1): StockFact => ({
  dealId,
  bucket,
  available,
  version,
  of,
});
const entry = (dealId: string, requestId: string, quantity = 1): Entry => ({ dealId, requestId, quantity });

export function stockGateConformance(gateOf: () => StockGate): void {
  const enter = async (one: Entry): Promise<number | undefined> => gateOf().enter(one);
  /** Tells, and waits until it is told. */
  const note = async (...facts: StockFact[]): Promise<void> => {
    gateOf().note(facts);
    await sleep(20);
  };

  it("refuses nobody a deal it knows nothing of", async () => {
    assert.equal(await enter(entry(newDeal(), "a", 99)), undefined);
  });

  it("refuses who wants more than is left, and says how much that is", async () => {
    const deal = newDeal();
    await note(fact(deal, 3, 1));
    assert.equal(await enter(entry(deal, "a", 3)), undefined);
    assert.equal(await enter(entry(deal, "b", 4)), 3);
    assert.equal(await enter(entry(deal, "c", 1)), undefined);
  });

  it("lets a drain's worth of shoppers race for the last units, and tells the others to come again", async () => {
    const deal = newDeal();
    await note(fact(deal, 50, 1));
    const rush = Array.from({ length: 50 + LIMITS.gateCrowdMax + 200 }, (_, n) => entry(deal, `r${n}`));
    const answers = await Promise.allSettled(rush.map(async (one) => enter(one)));
    const told = answers.filter((answer) => answer.status === "rejected");
    assert.equal(told.length, 200);
    assert.ok(told.every(({ reason }) => reason instanceof DomainError && reason.type === "OVERLOADED"));
    gateOf().note([fact(deal, 0, 2)]);
    for (const one of rush) gateOf().leave(one);
    await sleep(20);
    assert.equal(await enter(entry(deal, "late")), 0);
  });

  it("counts a request once, however often it comes", async () => {
    const deal = newDeal();
    await note(fact(deal, 1, 1));
    await Promise.all(Array.from({ length: 2 * LIMITS.gateCrowdMax }, () => enter(entry(deal, "same"))));
    await Promise.all(Array.from({ length: LIMITS.gateCrowdMax }, (_, n) => enter(entry(deal, `other-${n}`))));
    await assert.rejects(async () => enter(entry(deal, "one too many")));
    // Leaving twice gives back once.
    for (let time = 0; time < 3; time++) gateOf().leave(entry(deal, "same"));
    await sleep(20);
    assert.equal(await enter(entry(deal, "next")), undefined);
    await assert.rejects(async () => enter(entry(deal, "one too many")));
  });

  it("lets the next one in as soon as units are back", async () => {
    const deal = newDeal();
    await note(fact(deal, 0, 7));
    assert.equal(await enter(entry(deal, "a")), 0);
    await note({ dealId: deal, bucket: 0, available: 1, version: 8 });
    assert.equal(await enter(entry(deal, "a")), undefined);
  });

  it("is not told otherwise by what comes late", async () => {
    const deal = newDeal();
    await note(fact(deal, 0, 9));
    await note(fact(deal, 5, 8));
    assert.equal(await enter(entry(deal, "a")), 0);
    await note(fact(deal, 5, 10));
    await note(fact(deal, 0, 9));
    assert.equal(await enter(entry(deal, "a", 5)), undefined);
  });

  it("adds up the buckets, and refuses nobody before it knows them all", async () => {
    const deal = newDeal();
    await note({ dealId: deal, bucket: 0, available: 0, version: 1 });
    assert.equal(await enter(entry(deal, "early")), undefined);
    gateOf().leave(entry(deal, "early"));
    await note(fact(deal, 0, 1, 0, 2), fact(deal, 3, 1, 1, 2));
    assert.equal(await enter(entry(deal, "a", 4)), 3);
    await note({ dealId: deal, bucket: 0, available: 2, version: 2 });
    assert.equal(await enter(entry(deal, "a", 5)), undefined);
  });

  it("refuses nobody by what has not been confirmed for a second", async () => {
    const deal = newDeal();
    await note(fact(deal, 0, 1));
    assert.equal(await enter(entry(deal, "a")), 0);
    await sleep(FRESH_MS + 20);
    assert.equal(await enter(entry(deal, "a")), undefined);
    await note(fact(deal, 0, 1));
    assert.equal(await enter(entry(deal, "b")), 0);
  });

  it("keeps nothing of a deal whose sale is over", async () => {
    const deal = newDeal();
    await note(fact(deal, 0, 1));
    gateOf().forget([deal]);
    await sleep(20);
    assert.equal(await enter(entry(deal, "a")), undefined);
  });

  it("counts whole units only", async () => {
    for (const quantity of [0, -3, 1.5, 100, Number.NaN])
      await assert.rejects(async () => enter(entry(newDeal(), "a", quantity)), /a gate counts whole units/);
  });
}
