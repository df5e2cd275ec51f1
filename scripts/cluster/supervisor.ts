/**
 * A whole cluster on one machine: two PostgreSQL servers, NATS, Redis, nginx, and the platform's own processes between them. Starts them in the
 * order in which they need each other, keeps them running, and ends them in the opposite order.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { request } from "node:https";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startEmbeddedPostgres, type EmbeddedPostgres } from "../../db/embedded.ts";
import { displayName, loadKeyspaces, saveKeyspaces } from "../../db/keyspaces.ts";
import { migrate } from "../../db/migrate.ts";
import { makeDatabases } from "../../db/new-databases.ts";
import { newestKeyspaces } from "../../db/routing.ts";
import { freePort, freePorts } from "../free-ports.ts";
import { findServer } from "../servers.ts";
import { StartError } from "../start-error.ts";
import { makeCertificates } from "./certificates.ts";
import { Child, endLeftovers, type ChildSpec, type Folders } from "./child.ts";
import { keyspacesFile, natsFile, nginxFile, redisFile } from "./files.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

export interface ClusterOptions {
  readonly dataDir: string;
  readonly host: string;
  /** nginx's, for HTTPS. */
  readonly port: number;
  readonly secret: (name: string) => string;
  /** Of the simpay that runs beside the cluster; 0: a free one, the same every time. Unset: another is named. */
  readonly simpayPort?: number;
  /** What every node is told besides its place: secrets and figures of the trade. */
  readonly nodeEnvironment: Readonly<Record<string, string>>;
  readonly log: (line: string) => void;
}

type Role = "gateway" | "worker" | "jobs";
const NODES: readonly (readonly [Role, number])[] = [
  ["jobs", 1],
  ["worker", 3],
  ["gateway", 2],
];
/** Which PostgreSQL server has which keyspace: people and one city, the other cities. */
const ON_FIRST_SERVER = new Set(["user", "sh"]);
const WHOLE_MS_MAX = 60_000;
/** Until every registry has heard of a node that is back, and nginx tries a gateway again (a second), before the next one goes. */
const SETTLE_MS = 1_500;

export class Cluster {
  readonly #options: ClusterOptions;
  readonly #folders: Folders;
  readonly #nodes = new Map<string, { readonly role: Role; readonly child: Child }>();
  readonly #servers: Child[] = [];
  #postgres: readonly EmbeddedPostgres[] = [];
  #shared: Readonly<Record<string, string>> = {};
  caFile = "";
  /** Of the one beside the cluster. */
  simpayUrl = "";
  natsUrl = "";
  keyspacesFile = "";

  constructor(options: ClusterOptions) {
    this.#options = options;
    this.#folders = { run: join(options.dataDir, "run"), logs: join(options.dataDir, "logs") };
  }

  get #children(): readonly Child[] {
    return [...this.#servers, ...[...this.#nodes.values()].map(({ child }) => child)];
  }

  /** Resolves when nginx answers that everything serves. */
  async start(): Promise<void> {
    const { dataDir, host, port, log } = this.#options;
    for (const folder of Object.values(this.#folders)) mkdirSync(folder, { recursive: true, mode: 0o700 });
    const [nats, redis, nginx] = await Promise.all([findServer("nats-server"), findServer("redis-server"), findServer("nginx")]);
    await endLeftovers(this.#folders.run, log);
    const tls = await makeCertificates(dataDir, host);
    this.caFile = tls.caFile;
    // Sequential: two that are created at once on two cores take as long, and their complaints would mix.
    for (const name of ["postgres-1", "postgres-2"]) {
      const directory = join(dataDir, name);
      // As root PostgreSQL is another user, who must be able to walk through.
      mkdirSync(directory, { recursive: true, mode: process.getuid?.() === 0 ? 0o711 : 0o700 });
      this.#postgres = [...this.#postgres, await startEmbeddedPostgres({ dataDir: directory, log: (line) => log(`${name}: ${line}`) })];
    }
    await this.#makeDatabases();
    const nodes = NODES.flatMap(([role, count]) => Array.from({ length: count }, () => role));
    const [natsPort = 0, redisPort = 0, ...nodePorts] = await freePorts(2 + nodes.length);
    const [natsPassword, redisPassword] = [this.#options.secret("nats"), this.#options.secret("redis")];
    this.natsUrl = `nats://tuanbar:${natsPassword}@127.0.0.1:${natsPort}`;
    const publicUrl = this.#options.nodeEnvironment["PUBLIC_URL"] ?? `https://localhost:${port}`;
    this.#shared = {
      PUBLIC_URL: publicUrl,
      ...(await this.#simpay()),
      ...this.#options.nodeEnvironment,
      NATS_URL: this.natsUrl,
      REDIS_URL: `redis://:${redisPassword}@127.0.0.1:${redisPort}`,
      KEYSPACES: this.keyspacesFile,
      TRUSTED_PROXIES: "127.0.0.1",
    };
    const server = (name: string, program: string, args: readonly string[], at: number, on = "127.0.0.1"): Promise<void> =>
      this.#server({ name, program, args, port: at, ready: () => answers(at, on) });
    await Promise.all([
      server("nats", nats, ["-c", natsFile(dataDir, natsPort, natsPassword)], natsPort),
      server("redis", redis, [redisFile(dataDir, redisPort, redisPassword)], redisPort),
    ]);
    await Promise.all(nodes.map((role, index) => this.#makeNode(role, nodePorts[index] ?? 0).start()));
    const conf = nginxFile(dataDir, { host, port, gateways: this.#portsOf("gateway"), tls });
    await server("nginx", nginx, ["-p", join(dataDir, "nginx"), "-c", conf, "-e", "stderr"], port, reachable(host));
    await this.#whole();
  }

  /** An outside system, with a log of its own; it believes the authority our door was certified by. What nodes are told of it. */
  async #simpay(): Promise<Readonly<Record<string, string>>> {
    const { dataDir, simpayPort, secret } = this.#options;
    if (simpayPort === undefined) return {};
    const folder = join(dataDir, "simpay");
    const env = {
      SIMPAY_PORT: String(simpayPort),
      SIMPAY_DATA_DIR: folder,
      SIMPAY_SECRET: secret("simpay"),
      SIMPAY_ADMIN_SECRET: secret("simpay-admin"),
      NODE_EXTRA_CA_CERTS: this.caFile,
    };
    await this.#server({
      name: "simpay",
      program: process.execPath,
      args: [join(root, "simpay", "main.ts")],
      env,
      port: simpayPort,
      ready: "says so",
    });
    this.simpayUrl = `http://127.0.0.1:${simpayPort === 0 ? readFileSync(join(folder, "port"), "utf8").trim() : simpayPort}`;
    return { SIMPAY_URL: this.simpayUrl, SIMPAY_SECRET: env.SIMPAY_SECRET };
  }

  /** The doors first, then who works, then what they stand on. */
  async stop(): Promise<void> {
    const nodes = (role: Role): Promise<unknown> =>
      Promise.all([...this.#nodes.values()].filter((node) => node.role === role).map(({ child }) => child.stop()));
    await nodes("gateway");
    await nodes("jobs");
    await nodes("worker");
    for (const server of this.#servers.toReversed()) await server.stop();
    await Promise.all(this.#postgres.map((postgres) => postgres.stop()));
  }

  /** Without waiting for anything: the second Ctrl-C. */
  killAll(): void {
    for (const child of this.#children) child.kill("SIGKILL");
  }

  status(): string[] {
    const rows = this.#children.map(({ view }) => view);
    const line = (cells: readonly (string | number)[]): string =>
      cells
        .map((cell) => String(cell).padEnd(12))
        .join(" ")
        .trimEnd();
    return [
      line(["NAME", "STATE", "PID", "PORT", "RESTARTS", "UP"]),
      ...this.#postgres.map(({ pid }, index) => line([`postgres-${index + 1}`, "running", pid, "socket", "-", "-"])),
      ...rows.map(({ name, state, pid, port, restarts, upSeconds }) => line([name, state, pid ?? "-", port, restarts, `${upSeconds} s`])),
    ];
  }

  /** What a second terminal may ask. */
  async command([verb = "", name = ""]: readonly string[], say: (line: string) => void): Promise<void> {
    switch (verb) {
      case "status":
        return this.status().forEach(say);
      case "kill":
        this.#find(name).kill("SIGKILL");
        return say(`${name} is killed; it will be started again`);
      case "stop":
        await this.#find(name).stop();
        return say(`${name} has stopped; restart ${name} starts it`);
      case "add": {
        if (name !== "worker") throw new StartError("only workers can be added while the cluster runs: add worker");
        const child = this.#makeNode("worker", await freePort());
        await child.start();
        return say(`${child.spec.name} serves`);
      }
      case "restart":
        return this.#restart(name === "" ? [...this.#nodes.keys()] : [name], say);
      default:
        throw new StartError(`no such command: ${verb}; there are status, kill <name>, stop <name>, restart [name], add worker`);
    }
  }

  /** One after the other, so that there is always somebody else. */
  async #restart(names: readonly string[], say: (line: string) => void): Promise<void> {
    for (const [index, name] of names.entries()) {
      const child = this.#find(name);
      if (index > 0) await sleep(SETTLE_MS);
      await child.stop();
      await child.start();
      say(`${name} serves again`);
    }
  }

  #find(name: string): Child {
    const found = this.#children.find(({ spec }) => spec.name === name);
    if (!found) throw new StartError(`no ${name || "name"} here: ${this.#children.map(({ spec }) => spec.name).join(", ")}`);
    return found;
  }

  async #makeDatabases(): Promise<void> {
    const { dataDir } = this.#options;
    const postgresOf = (keyspace: string): EmbeddedPostgres => {
      const found = this.#postgres[ON_FIRST_SERVER.has(keyspace) ? 0 : 1];
      if (!found) throw new Error("both PostgreSQL servers run by now");
      return found;
    };
    const named = loadKeyspaces(join(root, "keyspaces.yaml")).databases();
    const byServer = Map.groupBy(named, ({ keyspace }) => postgresOf(keyspace.code));
    for (const [postgres, databases] of byServer) await makeDatabases(postgres, databases);
    this.keyspacesFile = keyspacesFile(dataDir, join(root, "keyspaces.yaml"), (keyspace, name) => postgresOf(keyspace).url(name));
    const keyspaces = await newestKeyspaces(loadKeyspaces(this.keyspacesFile), (database) => database);
    saveKeyspaces(this.keyspacesFile, keyspaces);
    // Here, once, rather than by six nodes that wait for each other.
    await Promise.all(keyspaces.databases().map(({ name, keyspace }) => migrate(name, keyspace, displayName(name))));
  }

  async #server(spec: ChildSpec): Promise<void> {
    const child = new Child(spec, this.#folders, this.#options.log);
    this.#servers.push(child);
    await child.start();
  }

  #makeNode(role: Role, port: number): Child {
    const count = [...this.#nodes.values()].filter((node) => node.role === role).length;
    const name = `${role}-${count + 1}`;
    const env = { ...this.#shared, NODE_ID: name, SERVICES: role, HOST: "127.0.0.1", PORT: String(port) };
    const args = [join(root, "scripts", "start.ts"), "--local"];
    const child = new Child({ name, program: process.execPath, args, env, port, ready: "says so" }, this.#folders, this.#options.log);
    this.#nodes.set(name, { role, child });
    return child;
  }

  #portsOf(role: Role): number[] {
    return [...this.#nodes.values()].flatMap((node) => (node.role === role ? [node.child.spec.port] : []));
  }

  async #whole(): Promise<void> {
    const { host, port } = this.#options;
    const ca = readFileSync(this.caFile);
    const end = performance.now() + WHOLE_MS_MAX;
    let said = "nothing";
    while (performance.now() < end) {
      const { status, body } = await get({ host: reachable(host), port, path: "/readyz", ca });
      if (status === 200) return;
      said = body;
      await sleep(100);
    }
    throw new StartError(`the cluster is not whole after ${WHOLE_MS_MAX / 1_000} s; its door says: ${said}`);
  }
}

const reachable = (host: string): string => (host === "0.0.0.0" || host === "::" || host === "localhost" ? "127.0.0.1" : host);

const answers = (port: number, host: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, host, () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });

function get(of: { host: string; port: number; path: string; ca: Buffer }): Promise<{ status: number; body: string }> {
  return new Promise((resolve) => {
    const asked = request({ ...of, agent: false, timeout: 2_000 }, (res) => {
      let body = "";
      res.setEncoding("utf8").on("data", (text: string) => (body += text));
      res.once("end", () => resolve({ status: res.statusCode ?? 0, body }));
    });
    asked.once("timeout", () => asked.destroy());
    asked.once("error", (error) => resolve({ status: 0, body: error.message }));
    asked.end();
  });
}
