/** The pay page as a customer sees it: in a browser where there is one, by its form where there is none. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, test } from "node:test";
import { chromium } from "playwright-core";
import { Ear, testSimpay } from "./support/simpay.ts";

const simpay = await testSimpay();
const ear = await Ear.open();
after(async () => {
  await simpay.stop();
  await ear.close();
});
const browserPath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome", chromium.executablePath()].find((path) =>
  existsSync(path),
);

test(`a customer pays by one click on the page (${browserPath === undefined ? "by its form: no browser here" : "in chromium"})`, async () => {
  const { body } = await simpay.charge("click-1", ear.url, { amount: 123_456 });
  const payUrl = String(body["payUrl"]);
  if (browserPath === undefined) await byForm(payUrl);
  else await inBrowser(payUrl, browserPath);
  assert.equal((await simpay.call("GET", "/v1/charges/click-1")).body["status"], "PAID");
});

async function byForm(payUrl: string): Promise<void> {
  const html = await (await fetch(payUrl)).text();
  const [, method] = /<form method="(\w+)"><button type="submit">确认支付/.exec(html) ?? [];
  const answer = await fetch(payUrl, { method: method ?? "", redirect: "follow" });
  assert.match(await answer.text(), /已支付 · Paid/);
}

async function inBrowser(payUrl: string, executablePath: string): Promise<void> {
  const browser = await chromium.launch({ executablePath, args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] });
  try {
    const page = await browser.newPage();
    const complaints: string[] = [];
    page.on("console", (message) => complaints.push(message.text()));
    const foreign: string[] = [];
    page.on("request", (request) => void (request.url().startsWith(simpay.url) || foreign.push(request.url())));
    await page.goto(payUrl);
    assert.match(await page.locator(".amount").innerText(), /¥1234\.56/);
    const button = page.getByRole("button", { name: "Pay now" });
    const background = await page.evaluate("getComputedStyle(document.querySelector('button')).backgroundColor");
    assert.equal(background, "rgb(7, 136, 63)", "the style is let in");
    await button.click();
    await page.getByRole("status").waitFor();
    assert.match(await page.getByRole("status").innerText(), /已支付 · Paid/);
    await page.reload();
    assert.equal(await page.getByRole("button").count(), 0);
    assert.deepEqual([complaints.filter((text) => !text.includes("favicon")), foreign], [[], []]);
  } finally {
    await browser.close();
  }
}
