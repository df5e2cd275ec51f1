import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ERRORS } from "../domain/errors.ts";

test("docs/errors.md lists exactly the errors that exist, with their status and whether a repeat helps", () => {
  const text = readFileSync(new URL("../docs/errors.md", import.meta.url), "utf8");
  const listed = [...text.matchAll(/^\| ([A-Z_]+) +\| (\d{3}) +\| (\w+) +\| (.+?) +\|$/gm)].map(
    ([, code, status, retry]) => `${code} ${status} ${retry}`,
  );
  const defined = Object.entries(ERRORS).map(([code, { status, retry }]) => `${code} ${status} ${retry}`);
  assert.deepEqual(listed.toSorted(), defined.toSorted());
});

test("every error is the caller's luck or ours to have named: its status is 4xx or 5xx", () => {
  for (const [code, { status }] of Object.entries(ERRORS)) assert.ok(status >= 400 && status < 600, code);
});
