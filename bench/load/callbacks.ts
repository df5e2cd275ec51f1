/** Callbacks as simpay sends them: signed over time, nonce and raw body. */
import { createHmac, randomBytes } from "node:crypto";

/** One request: the news that a charge was paid, under an id of its own. */
export function paidCallback(
  secret: string,
  id: string,
  charge: { number: string; channelNumber: string; amount: number; at: string },
): string {
  const { number, channelNumber, amount, at } = charge;
  const data = { type: "charge", number, channelNumber, amount, currency: "CNY", status: "PAID", paid: { amount, currency: "CNY", at } };
  const body = JSON.stringify({ id, event: "charge.paid", data });
  const timestamp = String(Math.floor(Date.now() / 1_000));
  const nonce = randomBytes(8).toString("hex");
  const signature = createHmac("sha256", secret).update(`${timestamp}\n${nonce}\ncallback\n`).update(body).digest("hex");
  return (
    `POST /api/v1/callbacks/simpay HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nsimpay-timestamp: ${timestamp}\r\n` +
    `simpay-nonce: ${nonce}\r\nsimpay-signature: ${signature}\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  );
}
