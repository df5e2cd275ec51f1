/** Merchants and deals for tests, made by the public actions. */
import { randomUUID } from "node:crypto";
import type { Id } from "../../domain/ids.ts";
import type { Caller, Infer } from "../../mixins/contract.ts";
import { createDeal, publishDeal } from "../../services/deal/deal.contract.ts";
import { createMerchant } from "../../services/merchant/merchant.contract.ts";
import { registerUser } from "../../services/user/user.contract.ts";
import type { Node } from "../../moleculer.config.ts";
import { callAs, caller } from "./node.ts";

/** What the user service of a test node is given. */
export const USER_SETTINGS = { jwtSecret: "a secret of at least thirty-two bytes" } as const;
export const ADMIN = caller("16", ["admin"]);

export const registered = async (node: Node, username = `u${randomUUID().slice(0, 8)}`): Promise<Caller> => {
  const user = await callAs(node, registerUser, { username, password: "correct-horse-1" }, undefined);
  return { userId: user.id as Id<"user">, username, roles: user.roles };
};

/** A new merchant with its owner, as the gateway would tell who the owner is after a log-in. */
export async function merchantIn(
  node: Node,
  city: string,
  name = "弄堂与麦 Craft Bar",
): Promise<Caller & { readonly merchantId: Id<"merchant"> }> {
  const owner = await registered(node);
  const merchant = await callAs(node, createMerchant, { name, city, commissionBps: 500, ownerUsername: owner.username }, ADMIN);
  return { ...owner, roles: ["consumer", "merchant"], merchantId: merchant.id as Id<"merchant"> };
}

export type DealForm = Infer<(typeof createDeal)["params"]>;
export const FORM: DealForm = { title: "精酿啤酒两杯 Craft Beer ×2", price: 1_990, tiers: [{ size: 3, price: 1_590 }], stock: 100 };

export const draft = (node: Node, owner: Caller, form: Partial<DealForm> = {}) => callAs(node, createDeal, { ...FORM, ...form }, owner);

export async function onSale(node: Node, owner: Caller, form: Partial<DealForm> = {}) {
  const { id } = await draft(node, owner, form);
  return callAs(node, publishDeal, { id }, owner);
}
