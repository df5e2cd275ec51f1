/** Drafting deals, and moving them between their states. */
import { spreadStock } from "../../domain/deal/buckets.ts";
import { draftOf, type DealForm } from "../../domain/deal/draft.ts";
import { DEAL_ERRORS } from "../../domain/deal/errors.ts";
import { moveDeal, ownedBy } from "../../domain/deal/moves.ts";
import type { DealEvent, DealState } from "../../domain/deal/state.ts";
import { dealVector } from "../../domain/deal/words.ts";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { refusal, type DomainError } from "../../domain/error.ts";
import type { DealId, MerchantId, UserId } from "../../domain/ids.ts";
import { invariant } from "../../domain/invariant.ts";
import type { Answer, Of } from "../../mixins/contract.ts";
import type { Work } from "../../mixins/drain.ts";
import { appendEvents, type NewEvent } from "../../mixins/events.ts";
import { storedAnswers, type Keyed } from "../../mixins/idempotency.ts";
import { isRefusal } from "../../mixins/mailbox.ts";
import type { Platform } from "../../mixins/platform.ts";
import type { StockFact } from "../../mixins/stock-gate.ts";
import { findMerchants } from "../merchant/merchant.store.ts";
import type { createDeal, Deal } from "./deal.contract.ts";
import { findDeals, insertDeals, lockDeals, moveDeals, viewDeal, type DealHead, type NewDeal } from "./deal.store.ts";

export interface CreateDealCommand extends Keyed {
  readonly merchantId: MerchantId;
  readonly requestId: string | undefined;
  readonly form: DealForm;
}

export const makeCreateDrain = (platform: Platform) =>
  storedAnswers(async (work: Work, commands: readonly CreateDealCommand[]): Promise<(Answer<typeof createDeal> | DomainError)[]> => {
    const merchants = await findMerchants(work, work.shard, [...new Set(commands.map((command) => command.merchantId))]);
    const ids = (await work.mint(commands.length)) as DealId[];
    const deals: NewDeal[] = [];
    const events: NewEvent<"deal.created">[] = [];
    const made = commands.map((command, index): DealId | undefined => {
      const merchant = merchants.get(command.merchantId);
      const id = ids[index];
      invariant(id !== undefined, "as many ids as commands");
      if (!merchant) return undefined;
      const draft = draftOf(command.form);
      const words = dealVector({ ...draft, merchantName: merchant.name });
      deals.push({ ...draft, id, merchantId: merchant.id, words, buckets: spreadStock(draft.stock) });
      events.push({
        type: "deal.created",
        subject: id,
        actor: command.callerId,
        requestId: command.requestId,
        idemKey: command.idemKey,
        data: { dealId: id, merchantId: merchant.id },
      });
      return id;
    });
    if (deals.length > 0) await insertDeals(work, work.shard, deals, await work.now());
    await appendEvents(work, work.shard, events);
    // The gate knows a deal from its birth: a flash sale's first second is not its gate's first.
    work.afterCommit(() => platform.stockChanged(deals.flatMap(bornFacts)));
    const views = await viewsOf(
      platform,
      work,
      deals.map((deal) => deal.id),
    );
    return made.map((id) => (id && views.get(id)) ?? refusal(COMMON_ERRORS, "FORBIDDEN", { need: "a merchant" }));
  });

const bornFacts = ({ id, buckets }: NewDeal): StockFact[] =>
  buckets.map((available, bucket) => ({ dealId: id, bucket, available, version: 0, of: buckets.length }));

export interface MoveDealCommand {
  readonly dealId: DealId;
  readonly event: DealEvent;
  readonly merchantId: MerchantId | undefined;
  /** An operator of the platform may move any deal. */
  readonly byPlatform: boolean;
  readonly actor: UserId | undefined;
  readonly requestId: string | undefined;
}

export const makeMoveDrain =
  (platform: Platform) =>
  async (work: Work, commands: readonly MoveDealCommand[]): Promise<(Of<typeof Deal> | DomainError)[]> => {
    const heads = await lockDeals(work, work.shard, [...new Set(commands.map((command) => command.dealId))]);
    const states = new Map<DealId, DealState>();
    const events: NewEvent<"deal.moved">[] = [];
    const outcomes = commands.map(({ dealId, event, merchantId, byPlatform, actor, requestId }): DealState | DomainError => {
      const head = heads.get(dealId);
      if (!head || !(byPlatform || ownedBy(head, merchantId))) return refusal(DEAL_ERRORS, "DEAL_NOT_FOUND", { dealId });
      const from = states.get(dealId) ?? head.state;
      const to = moveDeal(dealId, from, event);
      if (isRefusal(to) || to === from) return to;
      states.set(dealId, to);
      events.push({ type: "deal.moved", subject: dealId, actor, requestId, data: { dealId, merchantId: head.merchantId, from, to } });
      return to;
    });
    await write(work, heads, states, events);
    work.afterCommit(() => {
      platform.dealsChanged([...states.keys()]);
      platform.stockGate.forget([...states].flatMap(([id, to]) => (to === "CLOSED" ? [id] : [])));
    });
    const views = await viewsOf(platform, work, [...heads.keys()]);
    return outcomes.map((outcome, index): Of<typeof Deal> | DomainError => {
      if (isRefusal(outcome)) return outcome;
      const view = views.get(commands[index]?.dealId as DealId);
      invariant(view !== undefined, "a locked deal can be read");
      // The state this command left, which a later command of the batch may have changed again.
      return { ...view, status: outcome };
    });
  };

async function write(
  work: Work,
  heads: ReadonlyMap<DealId, DealHead>,
  states: ReadonlyMap<DealId, DealState>,
  events: readonly NewEvent[],
): Promise<void> {
  const moves = [...states].flatMap(([id, to]) => {
    const from = heads.get(id)?.state;
    return from === undefined || from === to ? [] : [{ id, from, to }];
  });
  if (moves.length > 0) {
    const moved = await moveDeals(work, work.shard, moves, await work.now());
    invariant(moved === moves.length, "a locked deal is in the state it was read in");
  }
  await appendEvents(work, work.shard, events);
}

async function viewsOf(platform: Platform, work: Work, ids: readonly DealId[]): Promise<Map<DealId, Of<typeof Deal>>> {
  const city = platform.keyspaces.byId(work.shard.city)?.code ?? "";
  const rows = ids.length === 0 ? [] : await findDeals(work, work.shard, ids);
  return new Map([...rows].map(([id, row]) => [id, viewDeal(row, city)]));
}
