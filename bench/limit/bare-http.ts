/** The least an HTTP server in Node can do with an order: read the body, parse it, answer as many bytes as an order has. No logic, no database. */
import { createServer } from "node:http";

const ANSWER = JSON.stringify({
  id: "250218476835176465",
  status: "PENDING_PAYMENT",
  dealId: "250218476835176465",
  merchantId: "250218476835176465",
  city: "sh",
  quantity: 1,
  unitPrice: 1990,
  discount: 0,
  amount: 1990,
  expiresAt: "2026-01-31T18:15:00.000Z",
  createdAt: "2026-01-31T18:00:00.000Z",
});
const HEADERS = ["Content-Type", "application/json; charset=utf-8", "Content-Length", String(ANSWER.length)];

createServer((req, res) => {
  let body: Buffer | undefined;
  req.on("data", (chunk: Buffer) => (body = body === undefined ? chunk : Buffer.concat([body, chunk])));
  req.on("end", () => {
    if (body !== undefined) JSON.parse(body.toString("utf8"));
    res.writeHead(req.method === "POST" ? 201 : 200, HEADERS);
    res.end(ANSWER);
  });
}).listen(Number(process.env["PORT"]), "127.0.0.1");
