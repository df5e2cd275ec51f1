/** The page a customer pays on: Chinese and English, nothing from elsewhere, no script. */
import { createHash } from "node:crypto";
import type { Charge } from "./records.ts";

const STYLE = `
  body { font: 16px/1.5 system-ui, sans-serif; background: #f4f5f7; color: #1d2129; margin: 0; }
  main { max-width: 24rem; margin: 4rem auto; padding: 2rem; background: #fff; border-radius: 12px; text-align: center; }
  h1 { font-size: 1.1rem; margin: 0 0 1.5rem; }
  .amount { font-size: 2.5rem; font-weight: 600; margin: .5rem 0; }
  .quiet { color: #6b7280; font-size: .85rem; overflow-wrap: anywhere; }
  button { width: 100%; padding: .8rem; font: inherit; font-weight: 600; color: #fff; background: #07883f; border: 0; border-radius: 8px; cursor: pointer; }
  button:focus-visible { outline: 3px solid #1d4ed8; outline-offset: 2px; }
  .state { font-size: 1.2rem; font-weight: 600; }
`;

/** No script, no foreign resource, no frame around it (a pay button under somebody else's page), forms only to ourselves. */
export const PAGE_HEADERS = {
  "content-type": "text/html; charset=utf-8",
  "content-security-policy": `default-src 'none'; style-src 'sha256-${createHash("sha256").update(STYLE).digest("base64")}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'`,
  "cache-control": "no-store",
  // The address is the right to pay: it must not travel to the shop by way of the link back.
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
} as const;

const escape = (text: string): string => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

function money(fen: number, currency: string): string {
  const digits = String(fen).padStart(3, "0");
  return `${currency === "CNY" ? "¥" : `${currency} `}${digits.slice(0, -2)}.${digits.slice(-2)}`;
}

const STATES = { PAID: "已支付 · Paid", CLOSED: "已关闭 · Closed", PENDING: "" } as const;

export function payPage(charge: Charge): string {
  const state =
    charge.status === "PENDING"
      ? `<form method="post"><button type="submit">确认支付 · Pay now</button></form>`
      : `<p class="state" role="status">${STATES[charge.status]}</p>`;
  const back = charge.returnUrl === undefined ? "" : `<p><a href="${escape(charge.returnUrl)}">返回商户 · Back to the merchant</a></p>`;
  const paid = charge.paid ?? charge;
  return frame(
    "收银台 · Checkout",
    `<p>${escape(charge.subject)}</p>
    <p class="amount">${escape(money(paid.amount, paid.currency))}</p>
    ${state}${back}
    <p class="quiet">订单号 · Number ${escape(charge.number)}</p>
    <p class="quiet">模拟支付,不会扣款 · A simulation: no real money moves</p>`,
  );
}

export const noSuchPage = (): string => frame("收银台 · Checkout", `<p class="state">没有这笔付款 · There is no such payment</p>`);

const frame = (title: string, body: string): string => `<!doctype html>
<html lang="zh-CN">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${title} – simpay</title><style>${STYLE}</style></head>
<body><main><h1>simpay ${title}</h1>${body}</main></body>
</html>
`;
