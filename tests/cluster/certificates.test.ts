/** Who is spoken to, and who is let in: nobody speaks to a certificate that has expired, neither at the door nor on the bus; the bus knows its nodes. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect as connectTcp, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { connect as connectTls, createServer } from "node:tls";
import { connect as connectBus, nkeys } from "nats";
import { natsOptions, type NatsSettings } from "../../mixins/bus.ts";
import { makeCertificates, type Certificates } from "../../scripts/cluster/certificates.ts";
import { freePort } from "../../scripts/free-ports.ts";
import { findServer } from "../../scripts/servers.ts";
import { until } from "../support/until.ts";

const TWO_YEARS_MS = 2 * 365 * 86_400_000;

describe("a certificate", () => {
  const dataDir = mkdtempSync(join(tmpdir(), "tb-certificates-"));
  let good: Certificates;
  let expired: Certificates;
  let nats: ChildProcess | undefined;

  before(async () => {
    // One authority, which both sides trust, and which is good for ten years.
    expired = await makeCertificates(dataDir, "127.0.0.1", new Date(Date.now() - TWO_YEARS_MS));
    for (const file of [expired.certificateFile, expired.keyFile]) writeFileSync(`${file}.old`, readFileSync(file), { mode: 0o600 });
    expired = { ...expired, certificateFile: `${expired.certificateFile}.old`, keyFile: `${expired.keyFile}.old` };
    good = await makeCertificates(dataDir, "127.0.0.1");
  });
  after(() => {
    nats?.kill("SIGKILL");
    rmSync(dataDir, { recursive: true, force: true });
  });

  /** What a client that trusts the authority says of a server with it. */
  async function shake({ certificateFile, keyFile, caFile }: Certificates): Promise<string> {
    const server = createServer({ cert: readFileSync(certificateFile), key: readFileSync(keyFile) }, (socket) => socket.end());
    server.on("tlsClientError", () => undefined);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const socket = connectTls({ host: "127.0.0.1", port, ca: readFileSync(caFile) });
    const said = await new Promise<string>((resolve) => {
      socket.once("secureConnect", () => resolve("welcome"));
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    });
    socket.destroy();
    server.close();
    return said;
  }

  /** A bus that shows it, asked as our nodes ask. */
  function joinBus({ certificateFile, keyFile, caFile }: Certificates): Promise<string> {
    const [cert, key] = [certificateFile, keyFile].map((path) => JSON.stringify(path));
    return joinWith(`tls { cert_file: ${cert}, key_file: ${key} }`, { caFile });
  }

  /** What a node with these settings says of a bus with this configuration. */
  async function joinWith(configuration: string, settings: Omit<NatsSettings, "servers">): Promise<string> {
    const port = await freePort();
    const file = join(dataDir, "nats.conf");
    writeFileSync(file, `listen: "127.0.0.1:${port}"\n${configuration}\n`);
    nats = spawn(await findServer("nats-server"), ["-c", file], { stdio: "ignore" });
    const gone = once(nats, "exit");
    await until(() => listens(port));
    const said = await connectBus({ ...natsOptions({ servers: [`127.0.0.1:${port}`], ...settings }, "a node"), reconnect: false }).then(
      async (connection) => {
        await connection.close();
        return "welcome";
      },
      (error: Error & { chainedError?: NodeJS.ErrnoException; code?: string }) => error.chainedError?.code ?? error.code ?? error.message,
    );
    nats.kill("SIGKILL");
    await gone;
    return said;
  }

  it("that is good opens the door, one that has expired does not", async () => {
    assert.equal(await shake(good), "welcome");
    assert.equal(await shake(expired), "CERT_HAS_EXPIRED");
  });

  it("that is good opens the bus, with one that has expired no node joins", async () => {
    assert.equal(await joinBus(good), "welcome");
    assert.equal(await joinBus(expired), "CERT_HAS_EXPIRED");
  });

  it("is asked for by a node that was told so, which says nothing to a bus without one", async () => {
    assert.equal(await joinWith("", {}), "welcome");
    assert.equal(await joinWith("", { tls: true, user: "tuanbar", pass: "a secret" }), "SERVER_OPT_NA");
  });

  it("may be a key: a bus lets those in whose public half it has", async () => {
    const [ours, theirs] = [nkeys.createUser(), nkeys.createUser()];
    const seed = (user: typeof ours): string => {
      const file = join(dataDir, "seed");
      writeFileSync(file, `${new TextDecoder().decode(user.getSeed())}\n`, { mode: 0o600 });
      return file;
    };
    const bus = `authorization { users: [ { nkey: ${ours.getPublicKey()} } ] }`;
    assert.equal(await joinWith(bus, { credsFile: seed(ours) }), "welcome");
    assert.equal(await joinWith(bus, { credsFile: seed(theirs) }), "AUTHORIZATION_VIOLATION");
  });
});

const listens = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connectTcp(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
