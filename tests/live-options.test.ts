/** Moleculer takes options from more places than one: a node starts only with those we mean. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ServiceBroker, type BrokerOptions } from "moleculer";
import { checkLiveOptions } from "../mixins/cluster.ts";

const meant: BrokerOptions = {
  namespace: "tuanbar",
  serializer: "CBOR",
  requestTimeout: 10_000,
  registry: { preferLocal: false },
  tracking: { shutdownTimeout: 10_000 },
  logger: false,
};
const check = (options: BrokerOptions): void => {
  const broker = new ServiceBroker({ ...meant, ...options });
  broker.createService({ name: "stock" });
  checkLiveOptions(broker, { namespace: "tuanbar", services: ["stock"] });
};

test("a node with the options we mean may start", () => check({}));

for (const [what, options] of [
  ["in another namespace", { namespace: "staging" }],
  ["that writes what the others cannot read", { serializer: "JSON" }],
  ["whose calls wait for ever", { requestTimeout: 0 }],
  ["that prefers itself to a shard's node", { registry: { preferLocal: true } }],
  ["that does not wait for calls under way", { tracking: { shutdownTimeout: 0 } }],
] as const satisfies readonly (readonly [string, BrokerOptions])[])
  test(`a node ${what} may not`, () => assert.throws(() => check(options), { name: "InvariantViolation" }));

test("a node that lacks a service it should have may not", () => {
  const broker = new ServiceBroker(meant);
  assert.throws(() => checkLiveOptions(broker, { namespace: "tuanbar", services: ["stock"] }), /also stock/);
});
