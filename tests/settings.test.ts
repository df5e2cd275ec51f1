import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, describe, test } from "node:test";
import { readSettings, VARIABLES } from "../scripts/settings.ts";
import { StartError } from "../scripts/start-error.ts";

test("an empty environment gives the documented defaults", () => {
  assert.deepEqual(readSettings({}), {
    port: 3000,
    host: "127.0.0.1",
    dataDir: resolve(".data"),
    reversalMinutes: 60,
    settlementDelayMinutes: 60,
    orderTtlSeconds: 900,
    rateLimits: "on",
    logLevel: "info",
    busBatching: "on",
    failpoints: [],
    repl: "off",
    trustedProxies: [],
    simpayPort: 0,
    channels: {},
  });
});

test("settings cannot be changed after they are read", () => {
  assert.ok(Object.isFrozen(readSettings({})));
});

test("every variable is taken over, with its type", () => {
  const keyspaces = import.meta.filename;
  const settings = readSettings({
    PORT: "0",
    HOST: "::",
    DATA_DIR: "/tmp/x/../y",
    JWT_SECRET: "s".repeat(32),
    ADMIN_PASSWORD: "correct horse",
    REVERSAL_MINUTES: "5",
    SETTLEMENT_DELAY_MINUTES: "0",
    ORDER_TTL_SECONDS: "2",
    RATE_LIMITS: "on",
    LOG_LEVEL: "fatal",
    KEYSPACES: keyspaces,
    TRUSTED_PROXIES: "10.0.0.0/8, ::1",
    BUS_BATCHING: "off",
    REDIS_URL: "redis://:secret@redis:6379",
    NATS_URL: "tls://bus:p%40ss@nats-1,tls://nats-2:4223",
    NATS_CA: keyspaces,
    NODE_ID: "worker-1.example",
    SERVICES: "worker, ops",
    SIMPAY_PORT: "3201",
    SIMPAY_URL: "http://simpay.example.test:3200",
    SIMPAY_SECRET: "x".repeat(32),
    PUBLIC_URL: "https://tuanbar.example.test",
  });
  assert.deepEqual(settings, {
    port: 0,
    host: "::",
    dataDir: "/tmp/y",
    jwtSecret: "s".repeat(32),
    adminPassword: "correct horse",
    reversalMinutes: 5,
    settlementDelayMinutes: 0,
    orderTtlSeconds: 2,
    rateLimits: "on",
    logLevel: "fatal",
    repl: "off",
    keyspacesFile: keyspaces,
    simpayPort: 3201,
    channels: { simpay: { url: "http://simpay.example.test:3200", secret: "x".repeat(32) } },
    publicUrl: "https://tuanbar.example.test",
    trustedProxies: ["10.0.0.0/8", "::1"],
    busBatching: "off",
    failpoints: [],
    redisUrl: "redis://:secret@redis:6379",
    cluster: {
      nodeId: "worker-1-example",
      services: [
        "probe",
        "user",
        "wallet",
        "merchant",
        "stock",
        "group",
        "deal",
        "order",
        "payment",
        "voucher",
        "settlement",
        "search",
        "ops",
      ],
      nats: { servers: ["nats-1:4222", "nats-2:4223"], user: "bus", pass: "p@ss", tls: true, caFile: keyspaces },
    },
  });
});

test("batching on the bus can be switched off where there is a bus, and is on", () => {
  assert.equal(readSettings({}).busBatching, "on");
  assert.equal(readSettings({ BUS_BATCHING: "off" }, { local: true }).busBatching, "off");
  assert.equal(
    refusal({ BUS_BATCHING: "off" }),
    "environment: BUS_BATCHING is set and NATS_URL is not: without it one process is everything",
  );
  assert.equal(refusal({ BUS_BATCHING: "no" }), 'environment: BUS_BATCHING is "no", allowed: on, off');
});

test("only a server of a test's may be told to kill itself", () => {
  const failpoint = "after drain payment.decide, before call simpay.refund";
  const failpoints = ["after drain payment.decide", "before call simpay.refund"];
  assert.deepEqual(readSettings({ FAILPOINT: failpoint }).failpoints, failpoints);
  assert.deepEqual(readSettings({ FAILPOINT: failpoint, KEYSPACES: import.meta.filename }, { local: true }).failpoints, failpoints);
  assert.deepEqual(readSettings({}).failpoints, []);
  assert.equal(
    refusal({ FAILPOINT: failpoint, KEYSPACES: import.meta.filename }),
    "environment: FAILPOINT is set, which is allowed only with the embedded PostgreSQL (KEYSPACES unset): the server kills itself there",
  );
  assert.equal(
    refusal({ FAILPOINT: "payment.decide" }),
    'environment: FAILPOINT is "payment.decide", allowed: steps such as "after drain payment.decide", with commas between',
  );
});

test("every variable that is read is on the list that deployments are held to", () => {
  const read = new Set<string>();
  readSettings(new Proxy({}, { get: (_, name) => void read.add(String(name)) }));
  assert.deepEqual(
    [...read].filter((name) => !VARIABLES.includes(name)),
    [],
  );
});

describe("settings of payment channels", () => {
  const directory = mkdtempSync(join(tmpdir(), "tuanbar-settings-"));
  after(() => rmSync(directory, { recursive: true }));
  const keys = generateKeyPairSync("rsa", {
    modulusLength: 2048,
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });
  const keyFile = join(directory, "apiclient_key.pem");
  writeFileSync(keyFile, keys.privateKey);
  const wechat = {
    WECHATPAY_MCHID: "1900009191",
    WECHATPAY_APPID: "wx1",
    WECHATPAY_SERIAL: "5157F0",
    WECHATPAY_PRIVATE_KEY_FILE: keyFile,
    WECHATPAY_PLATFORM_KEY_ID: "PUB_KEY_ID_1",
    WECHATPAY_PLATFORM_KEY: keys.publicKey,
    WECHATPAY_APIV3_KEY: "k".repeat(32),
    PUBLIC_URL: "https://tuanbar.example.test",
  };

  test("WeChat Pay is there when all of it is set, keys from variables or files", () => {
    assert.deepEqual(readSettings(wechat).channels.wechatpay, {
      mchid: "1900009191",
      appid: "wx1",
      serial: "5157F0",
      privateKey: keys.privateKey.trim(),
      platformKeyId: "PUB_KEY_ID_1",
      platformKey: keys.publicKey,
      apiV3Key: "k".repeat(32),
    });
  });

  test("half a channel is refused at the start, naming what is missing", () => {
    const node = { NATS_URL: "nats://bus", KEYSPACES: import.meta.filename, JWT_SECRET: "s".repeat(32) };
    const simpay = { SIMPAY_URL: "http://127.0.0.1:1", SIMPAY_SECRET: "x".repeat(32) };
    assert.match(refusal({ ...node, ...simpay }), /SIMPAY_URL is set and PUBLIC_URL is not/);
    assert.match(refusal({ SIMPAY_URL: "http://127.0.0.1:1" }), /^environment: SIMPAY_URL is set, SIMPAY_SECRET is not/);
    for (const name of Object.keys(wechat).filter((one) => one.startsWith("WECHATPAY")))
      assert.match(refusal({ ...wechat, [name]: "" }), new RegExp(`${name.replace(/_FILE$/, "")} is not: a channel needs`));
    assert.match(refusal({ ...wechat, PUBLIC_URL: "http://tuanbar.example.test" }), /needs PUBLIC_URL, an https address/);
  });

  test("a secret that is wrong is refused without repeating it", () => {
    for (const wrong of [{ WECHATPAY_APIV3_KEY: "hunter2" }, { WECHATPAY_PRIVATE_KEY: "hunter2" }, { WECHATPAY_PLATFORM_KEY: "hunter2" }]) {
      const message = refusal({ ...wechat, ...wrong });
      assert.doesNotMatch(message, /hunter2|\n/);
      assert.match(message, new RegExp(`^environment: ${Object.keys(wrong)[0]} `));
    }
    assert.match(refusal({ ...wechat, WECHATPAY_PRIVATE_KEY_FILE: join(directory, "none") }), /allowed: a file that can be read/);
  });
});

test("Elasticsearch is a URL, which no error repeats", () => {
  assert.equal(readSettings({ ELASTICSEARCH_URL: "http://search:9200" }).elasticsearchUrl, "http://search:9200");
  assert.equal(
    refusal({ ELASTICSEARCH_URL: "elastic:hunter2@search" }),
    "environment: ELASTICSEARCH_URL is not a URL, allowed: http://… or https://…",
  );
});

test("an empty value counts as unset", () => {
  assert.equal(readSettings({ PORT: "", RATE_LIMITS: "", JWT_SECRET: "", NATS_URL: "" }).port, 3000);
});

test("rate limits may be off with the embedded PostgreSQL only", () => {
  assert.equal(readSettings({ RATE_LIMITS: "off" }).rateLimits, "off");
  assert.match(
    refusal({ RATE_LIMITS: "off", KEYSPACES: import.meta.filename }),
    /RATE_LIMITS is "off", which is allowed only with the embedded PostgreSQL/,
  );
});

test("a wrong value is refused in one line that names the variable, the value and what is allowed", () => {
  for (const [name, value, allowed] of [
    ["PORT", "65536", /a whole number from 0 to 65535/],
    ["PORT", "1e3", /a whole number/],
    ["PORT", "-1", /a whole number/],
    ["PORT", " 80", /a whole number/],
    ["PORT", "99999999999999999999", /a whole number/],
    ["HOST", "example.test", /an IP address or localhost/],
    ["ORDER_TTL_SECONDS", "0", /from 1 to 86400/],
    ["SETTLEMENT_DELAY_MINUTES", "1.5", /a whole number/],
    ["REVERSAL_MINUTES", "61", /a whole number from 0 to 60/],
    ["RATE_LIMITS", "false", /on, off/],
    ["LOG_LEVEL", "INFO", /trace, debug, info, warn, error, fatal/],
    ["LOG_LEVEL", "a\nb", /trace/],
    ["SIMPAY_PORT", "65536", /from 0 to 65535/],
    ["KEYSPACES", join(tmpdir(), "no-such-file.yaml"), /a file that can be read/],
    ["TRUSTED_PROXIES", "10.0.0.0/33", /networks such as/],
  ] as const) {
    const message = refusal({ [name]: value });
    assert.ok(message.startsWith(`environment: ${name} is ${JSON.stringify(value)}, allowed: `), message);
    assert.match(message, allowed);
    assert.doesNotMatch(message, /\n/);
  }
});

test("a secret that is too short is refused without repeating it", () => {
  assert.equal(refusal({ JWT_SECRET: "hunter2" }), "environment: JWT_SECRET has 7 characters, allowed: 32 or more");
  assert.equal(refusal({ ADMIN_PASSWORD: "hunter2" }), "environment: ADMIN_PASSWORD has 7 characters, allowed: 8 or more");
});

test("a Redis URL that is none is refused without repeating it", () => {
  const message = refusal({ REDIS_URL: "http://user:hunter2@localhost" });
  assert.match(message, /^environment: REDIS_URL is not the URL of a Redis; expected /);
  assert.doesNotMatch(message, /hunter2/);
});

test("a server that this version cannot use is refused, not ignored", () => {
  for (const name of ["CLICKHOUSE_URL"]) {
    assert.match(refusal({ [name]: "http://user:secret@localhost" }), new RegExp(`^environment: ${name} is not supported yet`));
  }
});

test("a cluster needs what its nodes share, and what only a cluster has needs one", () => {
  const nats = { NATS_URL: "nats://user:secret@localhost" };
  assert.match(refusal({ ...nats, JWT_SECRET: "s".repeat(32) }), /KEYSPACES is not/);
  assert.match(refusal({ ...nats, KEYSPACES: import.meta.filename }), /JWT_SECRET is not/);
  assert.match(refusal({ SERVICES: "worker" }), /SERVICES is set and NATS_URL is not/);
  assert.match(refusal({ NATS_URL: "http://user:secret@localhost" }), /^environment: NATS_URL is not a URL/);
  assert.doesNotMatch(refusal({ REDIS_URL: "secret" }), /secret/);
});

test("rate limits may be off where npm run cluster brings the servers", () => {
  const environment = { RATE_LIMITS: "off", KEYSPACES: import.meta.filename };
  assert.equal(readSettings(environment, { local: true }).rateLimits, "off");
});

test("a misspelt variable with our prefix is refused", () => {
  assert.match(refusal({ TUANBAR_PORT: "1" }), /TUANBAR_PORT is not known/);
});

function refusal(environment: Record<string, string>): string {
  try {
    readSettings(environment);
  } catch (error) {
    assert.ok(error instanceof StartError);
    return error.message;
  }
  return assert.fail(`accepted: ${JSON.stringify(environment)}`);
}
