/** What the image's HEALTHCHECK runs: asks the node of this container whether it can serve. */
import { readSettings } from "./settings.ts";

const { port } = readSettings();
const answer = await fetch(`http://127.0.0.1:${port}/readyz`, { signal: AbortSignal.timeout(2_500) }).catch((error: unknown) =>
  String(error),
);
if (typeof answer === "string" || !answer.ok) {
  process.stderr.write(`${typeof answer === "string" ? answer : `${answer.status} ${await answer.text()}`}\n`);
  process.exit(1);
}
