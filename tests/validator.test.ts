/** Who checks the parameters of a call, and how often. */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { Errors, ServiceBroker } from "moleculer";
import { makeValidator } from "../mixins/validator.ts";

/** Two nodes with a bar on the second. */
async function open(t: TestContext): Promise<Record<"here" | "there", ServiceBroker>> {
  const make = (nodeID: string): ServiceBroker =>
    new ServiceBroker({ nodeID, transporter: "Fake", logger: false, validator: makeValidator() });
  const [here, there] = [make("here"), make("there")];
  there.createService({
    name: "bar",
    actions: { serve: { params: { glasses: "number" }, handler: ({ params }) => Promise.resolve(params) } },
  });
  await Promise.all([here.start(), there.start()]);
  t.after(() => Promise.all([here.stop(), there.stop()]));
  await here.waitForServices("bar", 5_000, 10);
  return { here, there };
}

test("parameters are checked where they are used", async (t) => {
  const { here, there } = await open(t);
  for (const broker of [here, there]) {
    assert.deepEqual(await broker.call("bar.serve", { glasses: 2 }), { glasses: 2 });
    await assert.rejects(broker.call("bar.serve", { glasses: "two" }), Errors.ValidationError);
  }
});

test("what this process has checked is not checked again by it, and another node does not take its word for it", async (t) => {
  const { here, there } = await open(t);
  assert.deepEqual(await there.call("bar.serve", { glasses: "two" }, { checked: true }), { glasses: "two" });
  await assert.rejects(here.call("bar.serve", { glasses: "two" }, { checked: true }), Errors.ValidationError);
});
