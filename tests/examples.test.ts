/** Every example of the OpenAPI document is sent to a real server, in the order a life takes, and every answer has the documented form. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { Ajv2020 } from "ajv/dist/2020.js";
import { composeId, slotOf } from "../domain/ids.ts";
import { openApi } from "../services/gateway/openapi.ts";
import { fullPath, REST_CONTRACTS } from "../services/gateway/routes.ts";
import { Server } from "./support/server.ts";
import { until } from "./support/until.ts";

const document = openApi() as {
  paths: Record<string, Record<string, { responses: Record<string, { content?: Record<string, { schema?: object }> }> }>>;
  components: object;
};
const ajv = new Ajv2020({ strict: false, validateFormats: false });
ajv.addSchema({ $id: "openapi", components: document.components });

describe("the documented examples", () => {
  const dataDir = mkdtempSync(join(tmpdir(), "tuanbar-examples-"));
  const server = new Server({ DATA_DIR: dataDir, RATE_LIMITS: "off", ADMIN_PASSWORD: "examples-admin", LOG_LEVEL: "fatal" });
  before(() => server.start());
  after(async () => {
    assert.equal(await server.stop(), 0, "it stops cleanly");
    rmSync(dataDir, { recursive: true, force: true });
  });
  const tried = new Set<string>();

  /** As if redemptions had been so long ago: as only the owner of the data directory can have it, by PostgreSQL's own socket. */
  async function hoursLater(hours: number): Promise<void> {
    await server.query(
      "sh",
      `set session_replication_role = replica;
       update redemptions set at = at - interval '${hours} hours';
       update vouchers set redeemed_at = redeemed_at - interval '${hours} hours' where redeemed_at is not null;
       update settlements set due_at = due_at - interval '${hours} hours'`,
    );
  }

  /** Calls an action by its name, with its example where it has one; checks status and form. */
  async function replay(
    name: string,
    token: string | undefined,
    path: Record<string, string> = {},
    body?: object,
  ): Promise<Record<string, string>> {
    const contract = REST_CONTRACTS.find((one) => one.name === name) ?? assert.fail(`no contract ${name}`);
    const { rest } = contract;
    const filled = JSON.parse(
      JSON.stringify(body ?? rest.example ?? {}).replace(/"\{(\w+)\}"/g, (_, key: string) => JSON.stringify(path[key])),
    ) as object;
    const url = rest.path.replace(/\{(\w+)\}/g, (_, key: string) => path[key] ?? assert.fail(`${name} needs ${key}`));
    const query = rest.method === "GET" && body !== undefined ? `?${new URLSearchParams(filled as Record<string, string>).toString()}` : "";
    const reply = await server.ask(rest.method, url + query, { ...(token === undefined ? {} : { token }), body: filled });
    const status = rest.acceptedWhen?.(reply.body) ? 202 : rest.status;
    assert.equal(reply.status, status, `${name}: ${JSON.stringify(reply.body)}`);
    tried.add(name);
    const schema =
      document.paths[fullPath(rest)]?.[rest.method.toLowerCase()]?.responses[String(status)]?.content?.["application/json"]?.schema;
    if (schema) {
      const check = ajv.compile(JSON.parse(JSON.stringify(schema).replaceAll("#/components", "openapi#/components")) as object);
      assert.ok(check(reply.body), `${name} answers as documented: ${JSON.stringify(check.errors)} in ${JSON.stringify(reply.body)}`);
    }
    return (reply.body ?? {}) as Record<string, string>;
  }

  it("are all answered as documented", async () => {
    await replay("user.register", undefined);
    const first = await replay("user.login", undefined);
    const { accessToken: admin } = await replay("user.login", undefined, {}, { username: "admin", password: "examples-admin" });
    await replay("user.me", first["accessToken"]);
    await replay("wallet.topup", first["accessToken"]);
    await replay("wallet.get", first["accessToken"]);
    await replay("wallet.transfers", first["accessToken"]);
    const merchant = await replay("merchant.create", admin);
    await replay("merchant.get", undefined, { id: merchant["id"] ?? "" });
    const tokens = await replay("user.refresh", undefined, {}, { refreshToken: first["refreshToken"] });
    const token = tokens["accessToken"];
    const { id: dealId = "" } = await replay("deal.create", token);
    await replay("deal.publish", token, { id: dealId });
    await replay("stock.restock", token, { id: dealId });
    await replay("deal.get", undefined, { id: dealId });
    await replay("deal.cities", undefined);
    await replay("search.deals", undefined);
    const opened = await replay("order.place", token, { dealId });
    await replay("payment.pay", token, { id: opened["id"] ?? "" });
    await replay("group.listOpen", undefined, { id: dealId });
    await replay("group.get", undefined, { id: opened["groupId"] ?? "" });
    await replay("order.get", token, { id: opened["id"] ?? "" });
    await until(async () => ((await replay("order.list", token))["items"] ?? "").length > 0);
    const alone = await replay("order.place", token, {}, { dealId, quantity: 1 });
    await replay("payment.pay", token, { id: alone["id"] ?? "" });
    const [voucher] = (await replay("voucher.ofOrder", token, { id: alone["id"] ?? "" })) as unknown as { code: string }[];
    await replay("voucher.redeem", token, { voucherCode: voucher?.code ?? "" });
    await replay("voucher.reverse", token, { voucherCode: voucher?.code ?? "" });
    await replay("payment.requestRefund", token, { id: alone["id"] ?? "" });
    await replay("payment.refundsOf", token, { id: alone["id"] ?? "" });
    const id = merchant["id"] ?? "";
    const used = await replay("order.place", token, {}, { dealId, quantity: 1 });
    await replay("payment.pay", token, { id: used["id"] ?? "" });
    const [toUse] = (await replay("voucher.ofOrder", token, { id: used["id"] ?? "" })) as unknown as { code: string }[];
    await replay("voucher.redeem", token, { voucherCode: toUse?.code ?? "" });
    await hoursLater(3);
    await until(async () => {
      const { items } = (await replay("settlement.list", token, { id })) as unknown as { items: { status: string }[] };
      return items.some(({ status }) => status === "SUCCESS");
    });
    await replay("settlement.payout", token, { id });
    await replay("settlement.balance", token, { id });
    const { id: refundId = "" } = await replay("payment.requestRefund", token, { id: used["id"] ?? "" });
    await replay("payment.approveRefund", token, { id, refundId });
    const charged = await replay("order.place", token, {}, { dealId, quantity: 1 });
    const { paymentId: chargeId = "" } = await replay("payment.pay", token, { id: charged["id"] ?? "" }, { channel: "simpay" });
    const unwanted = await replay("order.place", token, {}, { dealId, quantity: 2 });
    await replay("order.cancel", token, { id: unwanted["id"] ?? "" });
    await replay("deal.pause", token, { id: dealId });
    await replay("deal.close", token, { id: dealId });
    assert.equal((await replay("ops.verify", admin))["ok"], true);
    await replay("ops.shards", admin);
    await replay("ops.trace", admin, { id: used["id"] ?? "" });
    const payable = { account: `payable:${id}`, city: "sh", slot: String(slotOf(id)), from: "2025-01-01T00:00:00Z" };
    await replay("ops.accountStatement", admin, {}, payable);
    await server.query(
      "sh",
      `insert into parked_events (consumer, source, event_id, event, error, attempts)
       values ('nobody', '1/0', 1, '{"type":"order.created"}', 'an example', 5)`,
    );
    const { id: statementId = "" } = await replay("recon.query", admin);
    await until(async () => (await replay("recon.statement", admin, { id: statementId }))["status"] === "DONE");
    // As if the channel had told of money of nobody's.
    const stray = composeId({ ms: Date.now(), sequence: 0, city: 1, slot: 1 });
    await server.query(
      "sh",
      `insert into recon_differences (slot, id, statement_id, channel, day, class, kind, number, nth, theirs, currency)
       values (1, ${stray}, ${statementId}, 'simpay', '2026-01-01', 'LONG', 'PAYMENT', 'nobodys1', 1, 100, 'CNY')`,
    );
    await replay("recon.repair", admin, { id: stray });
    // Which the channel has not explained.
    const stranger = composeId({ ms: Date.now(), sequence: 1, city: 1, slot: 1 });
    await server.query(
      "sh",
      `insert into recon_differences (slot, id, statement_id, channel, day, class, kind, number, nth, theirs, currency, answer)
       values (1, ${stranger}, ${statementId}, 'simpay', '2026-01-01', 'LONG', 'PAYMENT', 'nobodys2', 1, 100, 'CNY', 'PAID 100 CNY')`,
    );
    await replay("recon.assign", admin, { id: stranger });
    await replay("recon.resolve", admin, { id: stranger });
    await replay("ops.deadLetters", admin);
    await replay("ops.replayDeadLetter", admin, { id: "nobody.1.0.1" });
    await replay("ops.dropDeadLetter", admin, { id: "nobody.1.0.1" });
    await server.query(
      "sh",
      `insert into channel_callbacks (slot, id, channel, callback_id, about, subject, body, news, state, error, attempts, next_attempt_at, received_at)
       values (${BigInt(refundId) % 16n}, ${refundId}, 'simpay', 'an example', 'charge', 1, '{}', '{"id":"x","about":"charge","charge":{"number":"1","status":"CLOSED"}}',
               'FAILED', 'simpay has no such payment of ours', 1, now(), now());
       update refunds set state = 'ABNORMAL' where id = ${refundId}`,
    );
    await replay("ops.attention", admin);
    await replay("ops.replayCallback", admin, { id: refundId });
    await server.query("sh", `update channel_callbacks set state = 'FAILED' where id = ${refundId}`);
    await replay("ops.resolveCallback", admin, { id: refundId });
    await replay("payment.resumeRefund", admin, { id: refundId });
    // The refund may be paid by now; a charge waits for its customer, who never comes.
    await replay("ops.retry", admin, { id: chargeId });
    await replay("search-index.rebuild", admin);
    await replay("ops.regions", admin);
    await replay("ops.reloadRegions", admin);
    await replay("ops.moveShards", admin);
    await replay("ops.abortMove", admin);
    const ends = async () => ((await replay("ops.moves", admin))["items"] ?? []) as unknown as { action: string; state: string }[];
    await until(async () => (await ends())[0]?.state !== "running");
    assert.deepEqual(
      (await ends()).map(({ action, state }) => `${action} ${state}`),
      ["abort done"],
    );
    await replay("user.logout", undefined, {}, { refreshToken: tokens["refreshToken"] });
    assert.deepEqual(
      REST_CONTRACTS.map((contract) => contract.name).filter((name) => !tried.has(name)),
      [],
      "every action over HTTP was tried",
    );
  });
});
