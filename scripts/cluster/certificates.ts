/** TLS for a cluster on one machine: a certificate authority made on the spot, kept in the data directory, and a fresh certificate at each start. */
// The library below registers its algorithms through it, and says so only when it is missing.
import "reflect-metadata";
import { createPrivateKey, generateKeyPairSync, randomBytes, type KeyObject } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { isIP } from "node:net";
import { join } from "node:path";
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";

export interface Certificates {
  /** What a client is to trust. */
  readonly caFile: string;
  readonly certificateFile: string;
  readonly keyFile: string;
}

const ECDSA = { name: "ECDSA", namedCurve: "P-256" } as const;
const SIGNING = { name: "ECDSA", hash: "SHA-256" } as const;
const DAY_MS = 86_400_000;
const CA_DAYS = 3_650;
/** Browsers refuse more. */
const SERVER_DAYS = 397;
/** Clocks of clients differ. */
const BACKDATED_MS = 3_600_000;

export async function makeCertificates(dataDir: string, host: string, now = new Date()): Promise<Certificates> {
  const directory = join(dataDir, "tls");
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const files: Certificates = {
    caFile: join(directory, "ca.pem"),
    certificateFile: join(directory, "server.pem"),
    keyFile: join(directory, "server.key"),
  };
  const caKeyFile = join(directory, "ca.key");
  if (!existsSync(files.caFile)) await makeAuthority(files.caFile, caKeyFile, now);
  const authority = new X509Certificate(readFileSync(files.caFile, "utf8"));
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const names = [...new Set(["localhost", "127.0.0.1", "::1", host, hostname()])];
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serial(),
    subject: "CN=tuanbar",
    issuer: authority.subject,
    ...validFor(SERVER_DAYS, now),
    publicKey: publicKey.toCryptoKey(ECDSA, true, ["verify"]),
    signingKey: signingKey(createPrivateKey(readFileSync(caKeyFile))),
    signingAlgorithm: SIGNING,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension(names.map((value) => ({ type: isIP(value) === 0 ? "dns" : "ip", value }))),
    ],
  });
  writeFileSync(files.keyFile, pem(privateKey), { mode: 0o600 });
  writeFileSync(files.certificateFile, certificate.toString("pem"));
  return files;
}

async function makeAuthority(caFile: string, keyFile: string, now: Date): Promise<void> {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: "CN=Tuanbar cluster CA",
    ...validFor(CA_DAYS, now),
    keys: { privateKey: signingKey(privateKey), publicKey: publicKey.toCryptoKey(ECDSA, true, ["verify"]) },
    signingAlgorithm: SIGNING,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
    ],
  });
  // The key first: an authority whose start was killed in between is made again.
  writeFileSync(keyFile, pem(privateKey), { mode: 0o600 });
  writeFileSync(caFile, certificate.toString("pem"));
}

/** Positive, as the standard wants it. */
const serial = (): string => `01${randomBytes(15).toString("hex")}`;
const pem = (key: KeyObject): string => key.export({ type: "pkcs8", format: "pem" }).toString();
const signingKey = (key: KeyObject): ReturnType<KeyObject["toCryptoKey"]> => key.toCryptoKey(ECDSA, true, ["sign"]);

const validFor = (days: number, now: Date): { readonly notBefore: Date; readonly notAfter: Date } => ({
  notBefore: new Date(now.getTime() - BACKDATED_MS),
  notAfter: new Date(now.getTime() + days * DAY_MS),
});
