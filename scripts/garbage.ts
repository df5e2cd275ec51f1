/** What a server process asks of V8's garbage collector. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/**
 * The old generation is collected when it has doubled. V8 by itself chooses anew each time: in a stampede on one deal a third more, and a collection a
 * second, whose marking beside burns a twelfth of two cores and gets in the way of everything; in lives of groups so much more that the process held
 * 600 MB where it holds 450 now.
 *
 * Whatever is made is made young. Where most objects of one literal have outlived a few collections V8 makes all of them old from then on, for as long as
 * the process lives, and what hangs on them stays until the next full collection: after one pause at the wrong moment it was every order or every event
 * of a stampede, another in each process, and its helpers burnt 4.4 µs for an order that cost 2.6.
 */
export function giveGarbageRoom(): void {
  setFlagsFromString("--heap-growing-percent=100");
  setFlagsFromString("--no-allocation-site-pretenuring");
}

/** Starting leaves 60 MB of garbage and of room for more, which an idle process keeps: it may not come to a full collection for hours. */
export function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
}
