/** Moments as text: whatever was asked before, each is what the language itself makes of it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { isoText } from "../domain/moment.ts";

test("a moment's text is its own, in whatever order and however often moments are asked for", () => {
  const moment = fc.date({ noInvalidDate: true });
  const asked = fc.tuple(fc.array(moment, { minLength: 1, maxLength: 200 }), fc.array(fc.nat(), { maxLength: 400 }));
  fc.assert(
    fc.property(asked, ([moments, again]) => {
      for (const at of [...moments, ...again.map((n) => moments[n % moments.length]!)]) assert.equal(isoText(at), at.toISOString());
    }),
  );
});

test("a date that is no moment has no text, and leaves those of others alone", () => {
  const now = new Date();
  assert.equal(isoText(now), now.toISOString());
  assert.throws(() => isoText(new Date(NaN)), RangeError);
  assert.throws(() => isoText(new Date(NaN)), RangeError);
  assert.equal(isoText(now), now.toISOString());
});
