/** The environment of `npm run simpay`. Its own reader: simpay shares nothing with the platform it witnesses against. */
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { SimpayOptions } from "./server.ts";

export class SettingsError extends Error {}

export const DEFAULT_PORT = 3200;

type Environment = Readonly<Record<string, string | undefined>>;

/** Makes the data directory, and in it what was not set: the two secrets. */
export function readSimpaySettings(environment: Environment = process.env): SimpayOptions {
  const dataDir = resolve(environment["SIMPAY_DATA_DIR"] || ".data-simpay");
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  return {
    dataDir,
    host: environment["SIMPAY_HOST"] || "127.0.0.1",
    port: number(environment, "SIMPAY_PORT", DEFAULT_PORT, 0, 65_535),
    secret: secret(environment, "SIMPAY_SECRET", join(dataDir, "secret")),
    adminSecret: secret(environment, "SIMPAY_ADMIN_SECRET", join(dataDir, "admin-secret")),
    timeFactor: number(environment, "SIMPAY_TIME_FACTOR", 1, 1, 1_000_000),
    publicUrl: environment["SIMPAY_PUBLIC_URL"] || undefined,
  };
}

function number(environment: Environment, name: string, otherwise: number, from: number, to: number): number {
  const value = environment[name] || String(otherwise);
  const found = /^\d{1,7}$/.test(value) ? Number(value) : -1;
  if (found < from || found > to) throw new SettingsError(`environment: ${name} is ${JSON.stringify(value)}, allowed: ${from} to ${to}`);
  return found;
}

/** From the environment, else kept in a file that only its owner reads; written aside first, so a killed start leaves no half of one. */
function secret(environment: Environment, name: string, file: string): string {
  const given = environment[name];
  if (given && given.length < 32) throw new SettingsError(`environment: ${name} has ${given.length} characters, allowed: 32 or more`);
  if (given) return given;
  if (!existsSync(file)) {
    writeFileSync(`${file}.draft`, `${randomBytes(32).toString("base64url")}\n`, { mode: 0o600 });
    renameSync(`${file}.draft`, file);
  }
  return readFileSync(file, "utf8").trim();
}
