import assert from "node:assert/strict";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { readSettings } from "../scripts/settings.ts";
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
    keyspacesFile: keyspaces,
  });
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
    ["KEYSPACES", join(tmpdir(), "no-such-file.yaml"), /a file that can be read/],
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

test("a server that this version cannot use is refused, not ignored", () => {
  for (const name of ["NATS_URL", "REDIS_URL", "CLICKHOUSE_URL", "ELASTICSEARCH_URL"]) {
    assert.match(refusal({ [name]: "redis://user:secret@localhost" }), new RegExp(`^environment: ${name} is not supported yet`));
  }
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
