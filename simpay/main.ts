/**
 * `npm run simpay`: a payment service provider of our own making, a process of its own with a log of its own. The platform knows it only
 * over HTTP, and never reads its log: it is the outside witness of what money moved.
 */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { startSimpay, type Simpay, type SimpayOptions } from "./server.ts";
import { readSimpaySettings, SettingsError } from "./settings.ts";

/** How long a predecessor that was just told to stop, or whose parent just died, may take to leave. */
const PREDECESSOR_MS = 5_000;

async function main(): Promise<void> {
  const settings = readSimpaySettings();
  await lock(settings.dataDir);
  const simpay = await onUsualPort(settings);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => void leave(simpay));
  // Started by another program: it is told where we are, and when it dies, however it dies, we leave too.
  process.on("disconnect", () => void leave(simpay));
  process.send?.({ port: simpay.port });
  if (process.send) return;
  process.stdout.write(`simpay is ready at ${simpay.url}; secrets and log are in ${settings.dataDir}\n`);
}

/** Port 0 means: any free one, and the same again next time, because pay pages are known by their address. */
async function onUsualPort(settings: SimpayOptions): Promise<Simpay> {
  if (settings.port !== 0) return startSimpay(settings);
  const file = join(settings.dataDir, "port");
  const usual = Number(readIfThere(file) ?? 0);
  const simpay = await startSimpay({ ...settings, port: usual }).catch((error: unknown) => {
    if (usual === 0 || (error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
    return startSimpay(settings);
  });
  writeFileSync(file, `${simpay.port}\n`);
  return simpay;
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** One process for one log: held by a socket in the data directory, which the system closes with its process. A pid file may lie. */
async function lock(dataDir: string): Promise<void> {
  // The path of a socket has 107 bytes at most; from here it is short.
  process.chdir(dataDir);
  const path = "lock";
  const end = performance.now() + PREDECESSOR_MS;
  while (!(await listens(path))) {
    if (!(await answers(path))) rmSync(path, { force: true });
    else if (performance.now() > end) throw new SettingsError(`data directory ${dataDir} is in use by another simpay`);
    else await sleep(100);
  }
}

const listens = (path: string): Promise<boolean> =>
  new Promise((done, failed) => {
    const server = createServer((socket) => socket.destroy());
    server.once("error", (error: NodeJS.ErrnoException) => (error.code === "EADDRINUSE" ? done(false) : failed(error)));
    server.listen(path, () => done(true)).unref();
  });

const answers = (path: string): Promise<boolean> =>
  new Promise((done) => {
    const socket = connect(path);
    socket.once("connect", () => done(true)).once("error", () => done(false));
    socket.once("connect", () => socket.destroy());
  });

let leaving = false;
async function leave(simpay: Simpay): Promise<void> {
  if (leaving) process.exit(1);
  leaving = true;
  await simpay.stop();
  process.exit(0);
}

main().catch((error: unknown) => {
  const { code } = error as NodeJS.ErrnoException;
  if (error instanceof SettingsError) process.stderr.write(`${error.message}\n`);
  else if (code === "EADDRINUSE") process.stderr.write("the port of simpay is taken: stop what uses it, or set SIMPAY_PORT\n");
  else process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
  process.exit(1);
});
