/**
 * Loads `city.yaml` through the actions of the public API, as its people would have made it: consumers with money in their wallets, owners,
 * their merchants, and deals on sale. Every key is made from a name, so a second run after a crash in the middle finds what the first one
 * made and goes on; the caller remembers that a run came to its end. About 25 passwords are hashed, two at a time: half a second of two cores.
 */
import { hash } from "node:crypto";
import type { ServiceBroker } from "moleculer";
import { parse } from "yaml";
import { DomainError } from "../domain/error.ts";
import type { MerchantId, UserId } from "../domain/ids.ts";
import {
  call,
  type Answer,
  type Caller,
  type CallMeta,
  type Contract,
  type Fields,
  type Infer,
  type Of,
  type Params,
  type Via,
} from "../mixins/contract.ts";
import { createDeal, publishDeal } from "../services/deal/deal.contract.ts";
import { createMerchant } from "../services/merchant/merchant.contract.ts";
import { findUser, registerUser } from "../services/user/user.contract.ts";
import { topUp } from "../services/wallet/wallet.contract.ts";

interface Samples {
  readonly password: string;
  readonly consumers: readonly { readonly username: string; readonly topup: number }[];
  readonly merchants: readonly (Params<typeof createMerchant> & { readonly deals: readonly Params<typeof createDeal>[] })[];
}

export interface LoadedSamples {
  readonly consumers: number;
  readonly merchants: number;
  readonly deals: number;
}

/** Needs the account `admin`, who opens merchants. Fails with the first refusal there is; what was made by then stays and is found again. */
export async function loadSamples(broker: ServiceBroker, yaml: string): Promise<LoadedSamples> {
  const via = broker as unknown as Via;
  const { password, consumers, merchants } = parse(yaml) as Samples;
  const admin = callerOf(await call(via, findUser, { username: "admin" }));
  const [, deals] = await Promise.all([
    Promise.all(consumers.map((consumer) => loadConsumer(via, consumer, password))),
    Promise.all(merchants.map((merchant) => loadMerchant(via, merchant, password, admin))),
  ]);
  return { consumers: consumers.length, merchants: merchants.length, deals: deals.reduce((sum, count) => sum + count, 0) };
}

async function loadConsumer(via: Via, { username, topup }: Samples["consumers"][number], password: string): Promise<void> {
  const consumer = callerOf(await account(via, username, password));
  await callAs(via, topUp, { amount: topup, channel: "test" }, consumer, `topup ${username}`);
}

async function loadMerchant(via: Via, { deals, ...form }: Samples["merchants"][number], password: string, admin: Caller): Promise<number> {
  const owner = await account(via, form.ownerUsername, password);
  const merchant = await callAs(via, createMerchant, form, admin, `merchant ${form.city} ${form.name}`);
  const staff: Caller = { ...callerOf(owner), roles: ["consumer", "merchant"], merchantId: merchant.id as MerchantId };
  // All at once: they meet in their merchant's mailbox, and are two transactions instead of two a deal.
  const drafts = await Promise.all(deals.map((deal) => callAs(via, createDeal, deal, staff, `deal ${form.name} ${deal.title}`)));
  await Promise.all(drafts.map(({ id }) => callAs(via, publishDeal, { id }, staff, `publish ${id}`)));
  return deals.length;
}

/** The account, made now or in a run before. */
async function account(via: Via, username: string, password: string): Promise<Answer<typeof registerUser>> {
  try {
    return await call(via, registerUser, { username, password });
  } catch (error) {
    if (!(error instanceof DomainError) || error.type !== "USERNAME_TAKEN") throw error;
    return call(via, findUser, { username });
  }
}

const callerOf = (user: Answer<typeof findUser>): Caller => ({
  userId: user.id as UserId,
  username: user.username,
  roles: user.roles,
  ...(user.merchantId === undefined ? {} : { merchantId: user.merchantId as MerchantId }),
});

/** A call as the gateway makes it for `caller`; the key is ASCII of a fixed length, whatever the name is. */
function callAs<const N extends string, P extends Fields, A>(
  via: Via,
  contract: Contract<N, P, A>,
  params: Infer<P>,
  caller: Caller,
  key: string,
): Promise<Of<A>> {
  const meta: CallMeta = {
    caller,
    requestId: "samples",
    idempotencyKey: `sample-${hash("sha256", key)}`,
    bodyHash: hash("sha256", JSON.stringify([contract.name, params])),
  };
  return call(via, contract, params, { meta });
}
