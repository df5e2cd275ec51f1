/** `npm run demo`: an evening in the city against the running server, over HTTP as its clients. Exit 1 when anything does not add up. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { parseArgs } from "node:util";
import { close, type Sums } from "./closing.ts";
import { Director, type Evening } from "./evening.ts";
import { Http, Unreachable } from "./http.ts";
import { Faults } from "./people.ts";

const HELP = `usage: npm run demo [-- https://localhost:3000 [--ca ca.pem]]
Plays an evening against the server at that address, else at HOST:PORT (127.0.0.1:3000); start one with npm start or npm run cluster.
The admin's password comes from ADMIN_PASSWORD, else from DATA_DIR/secrets/admin-password; the certificate authority of a cluster
from --ca, else from DATA_DIR/tls/ca.pem.`;

interface Verification {
  readonly ok: boolean;
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly detail: string }[];
}

function baseUrl(): string {
  const host = process.env["HOST"] || "127.0.0.1";
  const reachable = host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host;
  return `http://${reachable.includes(":") ? `[${reachable}]` : reachable}:${process.env["PORT"] || "3000"}`;
}

const dataDir = process.env["DATA_DIR"] || ".data";

/** A cluster on one machine has an authority of its own, which nobody else needs to trust. */
function trust(caFile: string | undefined): void {
  const file = caFile ?? join(dataDir, "tls", "ca.pem");
  if (caFile === undefined && !existsSync(file)) return;
  setDefaultCACertificates([...getCACertificates("default"), readFileSync(file, "utf8")]);
}

/** Undefined: not understood. */
function readArguments(): { readonly base: string; readonly ca: string | undefined } | undefined {
  try {
    const { values, positionals } = parseArgs({ options: { ca: { type: "string" } }, allowPositionals: true });
    const [base = baseUrl(), ...more] = positionals;
    return more.length === 0 && /^https?:$/.test(URL.parse(base)?.protocol ?? "")
      ? { base: new URL(base).origin, ca: values.ca }
      : undefined;
  } catch {
    // `parseArgs` names the option it does not know; the usage says what there is.
    return undefined;
  }
}

function adminPassword(): string | undefined {
  if (process.env["ADMIN_PASSWORD"]) return process.env["ADMIN_PASSWORD"];
  const path = join(dataDir, "secrets", "admin-password");
  return existsSync(path) ? readFileSync(path, "utf8").trim() : undefined;
}

async function verify(http: Http, faults: Faults): Promise<string> {
  const password = adminPassword();
  if (password === undefined) {
    faults.list.push("the books cannot be verified: no admin password (set ADMIN_PASSWORD, or DATA_DIR to the server's)");
    return "not asked";
  }
  const { accessToken } = await http.post<{ accessToken: string }>("/auth/login", { username: "admin", password });
  const { ok, checks } = await http.get<Verification>("/ops/verify", accessToken);
  for (const check of checks) faults.expect(check.ok, `/ops/verify: ${check.name}: ${check.detail.slice(0, 200)}`);
  faults.expect(ok, "/ops/verify is not ok");
  return ok ? `ok, ${checks.length} checks` : "NOT OK";
}

const yuan = (fen: number): string => `¥${(fen / 100).toLocaleString("en-US", { minimumFractionDigits: 2 })}`;
const listed = (counts: Readonly<Record<string, number>>): string =>
  Object.entries(counts)
    .toSorted(([, a], [, b]) => b - a)
    .map(([name, count]) => `${count} ${name.toLowerCase().replaceAll("_", " ")}`)
    .join(", ");

function table(http: Http, evening: Evening, sums: Sums, verified: string, seconds: number): string {
  const ms = (percentile: number): string => `${(http.latency.percentile(percentile) / 1e6).toFixed(1)} ms`;
  const codes = [...http.refusals].toSorted(([, a], [, b]) => b - a);
  const { total, available, held, sold } = evening.hot.stock;
  const rows: [string, string][] = [
    ["Evening", `${evening.shoppers.length} shoppers, ${http.answers.toLocaleString("en-US")} requests in ${seconds.toFixed(0)} s`],
    ["Orders", listed(sums.orders)],
    ["Groups", listed(sums.groups)],
    ["Vouchers", `${sums.vouchers} issued, ${evening.redeemed} redeemed`],
    ["Pressed twice", `${sums.replays} times, one order each`],
    ["Money", `${yuan(sums.toppedUp)} put in, ${yuan(sums.spent)} spent, ${yuan(sums.refunded)} refunded`],
    ["Hot deal", `${total} units = ${available} available + ${held} held + ${sold} sold`],
    ["Refusals", codes.length === 0 ? "none" : codes.map(([code, count]) => `${count} ${code}`).join(", ")],
    ["Latency", `p50 ${ms(50)}, p90 ${ms(90)}, p99 ${ms(99)}, max ${(http.latency.max / 1e6).toFixed(1)} ms`],
    ["/ops/verify", verified],
  ];
  return rows.map(([name, value]) => `  ${name.padEnd(14)} ${value}`).join("\n");
}

async function main(): Promise<number> {
  const asked = readArguments();
  if (asked === undefined) {
    process.stdout.write(`${HELP}\n`);
    return process.argv[2] === "--help" ? 0 : 1;
  }
  if (asked.base.startsWith("https:")) trust(asked.ca);
  const startedMs = performance.now();
  const http = new Http(asked.base);
  const faults = new Faults();
  const ready = await fetch(`${http.base}/readyz`).then(
    ({ ok }) => ok,
    () => undefined,
  );
  if (ready !== true) {
    process.stderr.write(
      ready === undefined ? `no server at ${http.base}: start one with npm start\n` : `the server at ${http.base} is not ready\n`,
    );
    return 1;
  }
  process.stdout.write(`\n  An evening in the city, at ${http.base}\n\n`);
  const evening = await new Director(http, faults).play();
  const sums = await close(evening, faults);
  const verified = await verify(http, faults);
  const { total, available, held, sold } = evening.hot.stock;
  faults.expect(total === available + held + sold, `the hot deal's stock does not add up: ${total} units`);
  for (const broken of http.broken) faults.list.push(`the server broke: ${broken}`);
  process.stdout.write(`\n${table(http, evening, sums, verified, (performance.now() - startedMs) / 1_000)}\n\n`);
  if (faults.list.length === 0) {
    process.stdout.write("  Everything adds up.\n\n");
    return 0;
  }
  process.stdout.write(`  ${faults.list.length} things do not add up:\n${faults.list.map((fault) => `  - ${fault}`).join("\n")}\n\n`);
  return 1;
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    // What a person can do something about is one line.
    process.stderr.write(
      `\n${error instanceof Unreachable ? `the server went away: ${error.message}` : error instanceof Error ? error.message : String(error)}\n`,
    );
    process.exit(1);
  },
);
