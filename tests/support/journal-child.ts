/** A node that dies between effect and acknowledgement: it does what it is told of, says so, and then hangs until it is killed. */
import { effectConsumer, openDatabase, startJournal } from "./journal.ts";

const [source = "", target = "", nats] = process.argv.slice(2);
const from = openDatabase(decodeURIComponent(new URL(source).pathname.slice(1)), 1, source);
const to = openDatabase("target", 0, target);
startJournal(
  [from],
  [
    effectConsumer("killed", to, () => {
      process.stdout.write("done\n");
      return new Promise(() => undefined);
    }),
  ],
  nats === undefined ? undefined : { url: nats },
);
setInterval(() => undefined, 1_000);
