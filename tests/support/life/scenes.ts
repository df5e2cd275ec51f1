/** Lives by chance: steps by themselves, and scenes of several that come one after the other. */
import fc from "fast-check";
import type { Mood, Way } from "./model.ts";
import {
  Approve,
  Cancel,
  Click,
  Close,
  type Command,
  Crash,
  Expire,
  Heal,
  Hear,
  Lapse,
  type OfOrder,
  PayByChannel,
  PayFromWallet,
  PayOut,
  Place,
  Redeem,
  Refund,
  Reverse,
  Settle,
  type Step,
  Weather,
  WindowOver,
} from "./steps.ts";

const which = fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.nat(5));
const way = fc.constantFrom<Way>("alone", "alone", "open", { join: 0 }, { join: 0 }, { join: 1 });
const quantity = fc.constantFrom(1, 2, 2, 3);
const ofOrder = (Of: new (which: number) => OfOrder): fc.Arbitrary<Step> => which.map((n) => new Of(n));
const step = fc.oneof(
  ...(
    [
      [14, fc.tuple(fc.nat(2), quantity, way).map(([user, count, how]) => new Place(user, count, how))],
      [6, ofOrder(PayFromWallet)],
      [7, ofOrder(PayByChannel)],
      [7, ofOrder(Click)],
      [
        7,
        fc
          .tuple(which, fc.constantFrom("once" as const, "once" as const, "often" as const, "forged" as const))
          .map(([n, how]) => new Hear(n, how)),
      ],
      [2, ofOrder(Cancel)],
      [2, ofOrder(Expire)],
      [2, fc.constant(null).map(() => new Close())],
      [7, fc.tuple(which, fc.nat(2)).map(([n, unit]) => new Redeem(n, unit))],
      [3, fc.tuple(which, fc.nat(2)).map(([n, unit]) => new Reverse(n, unit))],
      [1, ofOrder(WindowOver)],
      [5, ofOrder(Settle)],
      [4, fc.tuple(which, fc.constantFrom(undefined, 1, 1, 2)).map(([n, count]) => new Refund(n, count))],
      [3, ofOrder(Approve)],
      [2, ofOrder(Lapse)],
      [3, fc.integer({ min: 1, max: 5 }).map((part) => new PayOut(part))],
      [1, fc.constant(null).map(() => new Heal())],
    ] satisfies [number, fc.Arbitrary<Step>][]
  ).map(([weight, arbitrary]) => ({ weight, arbitrary })),
);
const weather = fc.constantFrom<Mood>("up", "up", "wrong", "returns", "down", "deaf", "busy", "no").map((mood) => new Weather(mood));

/** What people do one after the other; between two of their steps nothing else happens, or lives would hardly ever come to settling and paying back. */
const buys = fc.tuple(fc.nat(1), quantity).map(([user, count]) => [new Place(user, count, "alone"), new PayFromWallet(0)]);
const buysOutside = fc
  .tuple(fc.nat(2), quantity, fc.constantFrom<Way>("alone", "alone", "open", { join: 0 }))
  .map(([user, count, how]) => [new Place(user, count, how), new PayByChannel(0), new Click(0), new Hear(0, "once")]);
const gathers = fc
  .constantFrom<[number, number]>([0, 1], [1, 0])
  .map(([first, second]) => [
    new Place(first, 1, "open"),
    new PayFromWallet(0),
    new Place(second, 1, { join: 0 }),
    ...(first === 0 ? [new PayFromWallet(0)] : [new PayByChannel(0), new Click(0), new Hear(0, "often")]),
  ]);
const changesHisMind = fc
  .tuple(fc.nat(2), fc.boolean(), fc.boolean())
  .map(([user, cancels, heard]) => [
    new Place(user, 1, "alone"),
    new PayByChannel(0),
    new Click(0),
    cancels ? new Cancel(0) : new Expire(0),
    ...(heard ? [new Hear(0, "often")] : []),
  ]);
/** Pays outside, and from the wallet before that is through: while the channel is away nobody can tell whether it was paid. */
const turnsAround = fc
  .tuple(fc.nat(2), weather, fc.boolean())
  .map(([user, mood, clicks]) => [
    new Place(user, 1, "alone"),
    new PayByChannel(0),
    ...(clicks ? [new Click(0)] : []),
    mood,
    new PayFromWallet(0),
  ]);
const waitsInVain = fc
  .tuple(fc.nat(2), fc.boolean())
  .map(([user, pays]) => [new Place(user, 1, "open"), ...(pays ? [new PayFromWallet(0)] : []), new Close()]);
const uses = fc.tuple(which, fc.nat(2)).map(([n, unit]) => [new Redeem(n, unit), new Settle(n)]);
const isMistaken = fc
  .tuple(which, fc.nat(2), fc.boolean())
  .map(([n, unit, again]) => [new Redeem(n, unit), new Reverse(n, unit), ...(again ? [new Redeem(n, unit)] : [])]);
const regrets = fc
  .tuple(which, fc.nat(2), fc.boolean())
  .map(([n, unit, agreed]) => [
    new Redeem(n, unit),
    new Settle(n),
    new Refund(n, undefined),
    ...(agreed ? [new Approve(0), new PayOut(4)] : []),
  ]);

/** `crashes`: how many of a hundred steps the node does not survive. */
export const lives = (steps: number, crashes: number): fc.Arbitrary<readonly Command[]> =>
  fc
    .array(
      fc.oneof(
        { weight: 44 - crashes, arbitrary: step.map((one): Command[] => [one]) },
        { weight: 8, arbitrary: weather.map((one): Command[] => [one]) },
        { weight: 10, arbitrary: buys },
        { weight: 10, arbitrary: buysOutside },
        { weight: 6, arbitrary: gathers },
        { weight: 5, arbitrary: changesHisMind },
        { weight: 3, arbitrary: turnsAround },
        { weight: 3, arbitrary: waitsInVain },
        { weight: 8, arbitrary: uses },
        { weight: 6, arbitrary: isMistaken },
        { weight: 8, arbitrary: regrets },
        { weight: crashes, arbitrary: fc.tuple(step, fc.nat(14)).map(([during, ms]): Command[] => [new Crash(during, ms)]) },
      ),
      { minLength: Math.ceil(steps / 2), maxLength: steps, size: "max" },
    )
    .map((scenes) => scenes.flat());
