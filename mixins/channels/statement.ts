/** What reading every channel's statement has in common: unpacking, and rows of a CSV, streamed. */
import { pipeline, Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { parse, type Options } from "csv-parse";
import { StatementError } from "./channel.ts";

/** The rows of a CSV, its heading first, packed or not: told by its first bytes, because a file that was uploaded has no Content-Encoding. */
export async function* csvRows(statement: Readable, options: Options = {}): AsyncGenerator<readonly string[]> {
  try {
    yield* parsed(statement, options);
  } catch (error) {
    if (error instanceof StatementError) throw error;
    throw new StatementError(`the statement is damaged: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  } finally {
    statement.destroy();
  }
}

async function* parsed(statement: Readable, options: Options): AsyncGenerator<readonly string[]> {
  const chunks = statement[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  const first = await chunks.next();
  if (first.done) return;
  const whole = Readable.from(rejoined(first.value, chunks));
  const parser = parse({ bom: true, ...options });
  // An error of any part ends the parser, whose reader hears of it.
  const ended = (): void => undefined;
  if (first.value[0] === 0x1f && first.value[1] === 0x8b) pipeline(whole, createGunzip(), parser, ended);
  else pipeline(whole, parser, ended);
  yield* parser as AsyncIterable<readonly string[]>;
}

async function* rejoined(first: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  yield first;
  for (let next = await rest.next(); !next.done; next = await rest.next()) yield next.value;
}
