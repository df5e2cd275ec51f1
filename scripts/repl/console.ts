/** Moleculer's own console (moleculer-repl) on a broker, with commands of ours. */
import type { ServiceBroker } from "moleculer";
import startRepl from "moleculer-repl";
import { COMMANDS, type ConsoleCommand } from "./commands.ts";

const print = (line: string): void => void process.stdout.write(`${line}\n`);

/** `end` runs when its user leaves it: moleculer-repl would stop the broker and end the process, whatever else runs in it. */
export function openConsole(broker: ServiceBroker, end: () => void): void {
  const server = startRepl(broker, { delimiter: "tuanbar $", customCommands: COMMANDS.map(adapted) });
  const evaluate = server.eval;
  server.removeAllListeners("exit");
  server.once("exit", end);
  Object.assign(server, {
    eval(...[text, context, file, done]: Parameters<typeof evaluate>): void {
      if (/^(q|quit|exit)$/.test(text.trim())) server.close();
      else evaluate.call(server, text, context, file, done);
    },
  });
}

const adapted = ({ command, description, run }: ConsoleCommand) => ({
  ...{ command, description, alias: null, allowUnknownOptions: null, options: [] },
  // Its types want a function or null; only undefined is its own parser.
  parse: null,
  action: (broker: ServiceBroker, words: Readonly<Record<string, string>>): Promise<void> =>
    run(broker, words, print).catch((error: unknown) => print(sentence(error))),
});

function sentence(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { type } = error as { type?: unknown };
  return typeof type === "string" && type !== "" ? `${type}: ${error.message}` : error.message;
}
