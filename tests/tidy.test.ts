/** Style is a test: the import rule, and words that do not belong in a folder. */
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";

/** This table is the architecture: a folder may import itself and what stands to its right. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  domain: [],
  db: ["domain"],
  regions: ["domain"],
  mixins: ["db", "domain"],
  services: ["mixins", "db", "domain"],
  // The outside witness: it shares no code with those it witnesses against.
  simpay: [],
};
const files = globSync("{domain,db,regions,mixins,services,samples,scripts,demo,bench,simpay}/**/*.ts").toSorted();
const importsOf = (file: string): string[] =>
  [...readFileSync(file, "utf8").matchAll(/(?:from|import\() ?"(\.[^"]+)"/g)].map(([, to]) =>
    new URL(to ?? "", `file:///${file}`).pathname.slice(1),
  );

test("imports point one way", () => {
  const wrong = files.flatMap((file) => {
    const folder = file.split("/")[0] ?? "";
    const allowed = MAY_IMPORT[folder];
    if (!allowed) return [];
    return importsOf(file)
      .filter((target) => {
        const top = target.split("/")[0] ?? "";
        if (top !== folder) return !allowed.includes(top);
        const otherService = folder === "services" && target.split("/")[1] !== file.split("/")[1];
        // Another service is its contract; inside one keyspace and one transaction also its store.
        return otherService && !target.endsWith(".contract.ts") && !target.endsWith(".store.ts");
      })
      .map((target) => `${file} must not import ${target}`);
  });
  assert.deepEqual(wrong, []);
});

test("domain code has no clock, no chance and no I/O", () => {
  const banned = [
    "Date.now(",
    "new Date()",
    "performance.now(",
    "Math.random(",
    "randomUUID",
    "randomBytes",
    "process.env",
    "setTimeout",
    "parseFloat(",
    "node:fs",
    "node:net",
    "moleculer",
  ];
  const found = files
    .filter((file) => file.startsWith("domain/"))
    .flatMap((file) => {
      const text = readFileSync(file, "utf8");
      return banned.filter((word) => text.includes(word)).map((word) => `${file}: ${word}`);
    });
  assert.deepEqual(found, []);
});

test("nothing is left unfinished, and only the settings read the environment", () => {
  const found = files.flatMap((file) => {
    const text = readFileSync(file, "utf8");
    const unfinished = (text.match(/\b(TODO|FIXME|XXX)\b|@ts-ignore|\bas any\s*[;,)\]>.]|: any\s*[;,)=>\]|]/g) ?? []).map(String);
    // db/postgres-process.ts hands it on to the PostgreSQL it starts.
    const mayRead = !/^(domain|db|mixins|services)\//.test(file) || file === "db/postgres-process.ts";
    const environment = !mayRead && text.includes("process.env") ? ["process.env"] : [];
    return [...unfinished, ...environment].map((word) => `${file}: ${word}`);
  });
  assert.deepEqual(found, []);
});
