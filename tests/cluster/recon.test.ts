/**
 * The process is killed between the batches of a reconciliation, and goes on from there when it is started again. tests/cluster/failpoints passes the
 * same steps with a statement of a few lines, which may also be sent again; here an upload was acknowledged, and there is more than one batch.
 */
import assert from "node:assert/strict";
import { after, before, it } from "node:test";
import { dayAt } from "../../domain/recon/difference.ts";
import { testServer, type TestServer } from "../support/databases.ts";
import { Town } from "../support/town.ts";
import { paidBySimpay } from "../support/walks.ts";

/** Lines of nobody's, each a booking: three batches. */
const STRAYS = 1_200;
const BATCH = 500;
const STRAY_FEN = 7;
const PAID = 2;

let server: TestServer;
let town: Town;
before(async () => {
  server = await testServer();
  town = await Town.open(server);
  await town.live();
  await town.furnish();
});
after(async () => {
  await town.close();
  await server.stop();
});

/** A life that ends at a step by itself. */
async function diesAt(step: string): Promise<void> {
  await town.kill();
  await town.live(() => [step]);
  assert.equal(await town.died, "SIGKILL", step);
}
/** The day's statement, to which the channel has added what it never took. */
async function withStrays(day: string): Promise<string> {
  const lines = (await (await town.simpay.raw("GET", `/v1/statements/${day}`)).text()).trimEnd().split("\n");
  const total = lines.pop()?.split(",") ?? [];
  assert.deepEqual(total.slice(0, 3), [day, "TOTAL", String(PAID)]);
  const strays = Array.from(
    { length: STRAYS },
    (_, n) => `${new Date().toISOString()},PAYMENT,stray${n},nobodys${n},,${STRAY_FEN},CNY,PAID`,
  );
  const sum = Number(total[5]) + STRAYS * STRAY_FEN;
  return `${[...lines, ...strays, `${day},TOTAL,${PAID + STRAYS},,,${sum},,`].join("\n")}\n`;
}

it(
  "killed while it matches and between its bookings, a statement ends DONE with the right counts, each difference booked once",
  { timeout: 120_000 },
  async () => {
    for (let n = 0; n < PAID; n++) await paidBySimpay(town);
    const day = dayAt(Date.now());
    const csv = await withStrays(day);

    await town.kill();
    await town.live(() => ["after commit recon.match"]);
    const { id } = await town.upload(csv, day);
    assert.equal(await town.died, "SIGKILL");
    const state = async (): Promise<unknown> => (await town.inUsers("select id::text, state from recon_statements")).at(0);
    const booked = async (): Promise<unknown> =>
      (await town.inUsers<{ n: string }>("select count(*) as n from recon_differences where booked")).at(0)?.n;
    assert.deepEqual([await state(), await booked()], [{ id, state: "RECEIVED" }, "0"]);
    await diesAt("after write recon/move");
    // Where the part that was matched in the life before is that of the strays, the first batch of them is booked before the rest is matched.
    let so = Number(await booked());
    assert.ok(so === 0 || so === BATCH, `${so} are booked`);
    assert.deepEqual(await state(), { id, state: "MATCHED" });
    while (so < STRAYS) {
      await diesAt("after drain recon.book");
      so = Math.min(so + BATCH, STRAYS);
      assert.deepEqual([await state(), await booked()], [{ id, state: "MATCHED" }, String(so)]);
    }

    await town.live();
    await town.settles();
    const ended = await town.ask<{ status: string; lines: number; counts: { class: string; count: number; amount: number }[] }>(
      "GET",
      `/recon/statements/${id}`,
      town.admin,
    );
    assert.deepEqual([ended.status, ended.lines], ["DONE", PAID + STRAYS]);
    assert.deepEqual(
      ended.counts.filter(({ count }) => count > 0),
      [
        { class: "MATCHED", count: PAID, amount: 1_990 * PAID },
        { class: "LONG", count: STRAYS, amount: STRAY_FEN * STRAYS },
      ],
    );
    const [suspended] = await town.inUsers(
      "select count(*)::integer as transfers, count(distinct business_key)::integer as differences, sum(amount)::integer as fen from transfers where credit_account = 'suspense:long'",
    );
    assert.deepEqual(suspended, { transfers: STRAYS, differences: STRAYS, fen: STRAY_FEN * STRAYS });
  },
);
