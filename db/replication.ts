/**
 * Reads the inserts of our one published table from a logical replication slot (plug-in pgoutput, protocol 1: PostgreSQL 15 to 18).
 *
 * The package pg-logical-replication was tried first: 15 µs of CPU an event, 12 µs with this. Speed is not why it went. Its status timer confirms
 * what was received, also when acknowledging is left to the caller, and after a break its service resumes from what it received: both
 * lose events that nobody had handled yet. And its flow control hands rows out one by one, each waited for, where we want batches. This is the
 * part of it that we need: the wire comes from `pg`, and a position is confirmed by `confirm` and by nothing else.
 */
import pg from "pg";

/** One inserted row, as text; `data` stays unparsed until somebody wants it. */
export interface EventRow {
  readonly slot: number;
  readonly id: string;
  readonly type: string;
  readonly subject: string;
  readonly actor: string | null;
  readonly request_id: string | null;
  readonly idem_key: string | null;
  readonly data: string;
  readonly at: string;
}

export interface ReplicationListener {
  /** Rows of types nobody wants are not built. */
  wants(type: string): boolean;
  /**
   * A committed row, of the transaction with this number. Rows of one transaction come together, transactions in the order of their commits.
   * They may come a moment before others can read them.
   */
  row(row: EventRow, transaction: number): void;
  /** Every row of a transaction was given; once they are handled its position may be confirmed. */
  commit(end: bigint): void;
  /** The server has nothing for us before `end`. `urgent`: it wants to hear of us now. */
  idle(end: bigint, urgent: boolean): void;
}

/** What of `pg`'s connection is needed; its types leave it out. */
interface Wire {
  readonly stream: { pause(): void; resume(): void; destroy(): void };
  once(event: "replicationStart", listener: () => void): void;
  on(event: "copyData", listener: (message: { readonly chunk: Buffer }) => void): void;
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
}

const COLUMNS = ["slot", "id", "type", "subject", "actor", "request_id", "idem_key", "data", "at"] as const;
type Column = (typeof COLUMNS)[number];

const [XLOG_DATA, KEEPALIVE] = [0x77, 0x6b];
const [RELATION, BEGIN, INSERT, COMMIT] = [0x52, 0x42, 0x49, 0x43];
const NULL_VALUE = 0x6e;
/** XLogData: tag, start, end, clock; then the message of pgoutput. */
const MESSAGE_OFFSET = 25;
const STATUS_UPDATE = 0x72;
/** PostgreSQL counts microseconds since 2000-01-01. */
const POSTGRES_EPOCH_MS = 946_684_800_000;
const CONNECT_MS = 5_000;
/** A server that does not say goodbye is left after this. */
const CLOSE_MS = 2_000;

export class ReplicationStream {
  /** Resolves when the stream is over, with the reason; never rejects. */
  readonly ended: Promise<Error>;
  readonly #client: pg.Client;
  readonly #wire: Wire;
  readonly #rows: RowReader;
  readonly #listener: ReplicationListener;
  #end: (reason: Error) => void = () => undefined;
  #streaming = false;
  #closing = false;
  #over = false;
  /** The server's position as far as we have read. */
  #read = 0n;
  #transaction = 0;
  #confirmed = 0n;

  private constructor(client: pg.Client, listener: ReplicationListener) {
    this.#client = client;
    this.#wire = (client as unknown as { connection: Wire }).connection;
    this.#listener = listener;
    this.#rows = new RowReader((type) => listener.wants(type));
    this.ended = new Promise((resolve) => {
      this.#end = (reason) => {
        this.#over = true;
        resolve(reason);
      };
    });
  }

  /** Takes the slot; rejects with PostgreSQL's error, such as 55006 when another process has it. It stands paused. */
  static async open(url: string, replicationSlot: string, publication: string, listener: ReplicationListener): Promise<ReplicationStream> {
    const client = new pg.Client({
      connectionString: url,
      application_name: "tuanbar-relay",
      options: "-c timezone=UTC -c datestyle=ISO",
      keepAlive: true,
      connectionTimeoutMillis: CONNECT_MS,
      replication: "database",
    } as pg.ClientConfig);
    const stream = new ReplicationStream(client, listener);
    client.on("error", (error) => stream.#end(error));
    client.on("end", () => stream.#end(new Error("the replication connection ended")));
    try {
      await client.connect();
      await stream.#start(replicationSlot, publication);
    } catch (error) {
      await stream.close();
      throw error;
    }
    return stream;
  }

  async #start(replicationSlot: string, publication: string): Promise<void> {
    const started = new Promise<void>((resolve) => {
      this.#wire.once("replicationStart", () => {
        this.#wire.stream.pause();
        this.#streaming = true;
        resolve();
      });
    });
    this.#wire.on("copyData", ({ chunk }) => {
      try {
        if (!this.#over && !this.#closing) this.#take(chunk);
      } catch (error) {
        this.#end(error instanceof Error ? error : new Error(String(error)));
      }
    });
    // 0/0: from where the slot was confirmed. Replication commands are read in capitals only. The answer comes when the stream is over.
    const streaming = this.#client.query(
      `START_REPLICATION SLOT ${pg.escapeIdentifier(replicationSlot)} LOGICAL 0/0 (proto_version '1', publication_names ${pg.escapeLiteral(publication)})`,
    );
    const failed = streaming.then(
      () => this.#end(new Error("the server ended the stream")),
      (error: unknown) => {
        this.#end(error instanceof Error ? error : new Error(String(error)));
        throw error;
      },
    );
    await Promise.race([started, failed]);
    // From here a failure is told by `ended`.
    failed.catch(() => undefined);
  }

  /** Stops reading the socket; what has been read already is still given. */
  pause(): void {
    this.#wire.stream.pause();
  }

  resume(): void {
    this.#wire.stream.resume();
  }

  /** Everything before `position` is handled, for good: the server may forget it. Also says that we live. */
  confirm(position: bigint): void {
    if (this.#over) return;
    if (position > this.#confirmed) this.#confirmed = position;
    const status = Buffer.alloc(34);
    status[0] = STATUS_UPDATE;
    status.writeBigUInt64BE(this.#read > this.#confirmed ? this.#read : this.#confirmed, 1);
    status.writeBigUInt64BE(this.#confirmed, 9);
    status.writeBigUInt64BE(this.#confirmed, 17);
    status.writeBigUInt64BE(BigInt(Date.now() - POSTGRES_EPOCH_MS) * 1_000n, 25);
    this.#wire.sendCopyFromChunk(status);
  }

  /** Resolves when the server has let go of the slot, or is past waiting for. */
  async close(): Promise<void> {
    const patience = setTimeout(() => this.#wire.stream.destroy(), CLOSE_MS);
    this.#closing = true;
    // A paused socket never sees the server's goodbye.
    this.#wire.stream.resume();
    // Asked to end the stream, the server lets go of the slot and says so. `pg` by itself would destroy the socket of an answer under way, which the
    // server notices some time later: it would find the slot taken who asks for it at once.
    if (this.#streaming && !this.#over) {
      this.#wire.endCopyFrom();
      await this.ended;
    }
    await this.#client.end().catch(() => undefined);
    clearTimeout(patience);
    this.#end(new Error("closed"));
  }

  #take(chunk: Buffer): void {
    if (chunk[0] === KEEPALIVE) {
      const end = chunk.readBigUInt64BE(1);
      this.#read = end;
      this.#listener.idle(end, chunk[17] === 1);
    } else if (chunk[0] === XLOG_DATA) {
      const tag = chunk[MESSAGE_OFFSET];
      if (tag === INSERT) {
        const row = this.#rows.insert(chunk, MESSAGE_OFFSET + 1);
        if (row) this.#listener.row(row, this.#transaction);
      } else if (tag === BEGIN) {
        // commit position (8), clock (8), transaction (4)
        this.#transaction = chunk.readUInt32BE(MESSAGE_OFFSET + 17);
      } else if (tag === COMMIT) {
        // flags (1), commit position (8), end position (8), clock (8)
        const end = chunk.readBigUInt64BE(MESSAGE_OFFSET + 10);
        this.#read = end;
        this.#listener.commit(end);
      } else if (tag === RELATION) {
        this.#rows.relation(chunk, MESSAGE_OFFSET + 1);
      }
    }
  }
}

/** Turns insert messages into rows, by the columns that the last relation message named. */
class RowReader {
  readonly #wants: (type: string) => boolean;
  /** Where each of COLUMNS stands in a row. */
  #place: Readonly<Record<Column, number>> | undefined;
  /** Offset and length of every value of the row at hand; a length of -1 is null. Kept between rows. */
  #offsets: number[] = [];
  #lengths: number[] = [];

  constructor(wants: (type: string) => boolean) {
    this.#wants = wants;
  }

  relation(chunk: Buffer, from: number): void {
    let at = from + 4; // the table's oid
    const text = (): string => {
      const end = chunk.indexOf(0, at);
      const read = chunk.toString("utf8", at, end);
      at = end + 1;
      return read;
    };
    text(); // schema
    const table = text();
    at += 1; // replica identity
    const count = chunk.readInt16BE(at);
    at += 2;
    const names: string[] = [];
    for (let index = 0; index < count; index++) {
      at += 1; // flags
      names.push(text());
      at += 8; // type, type modifier
    }
    const place = Object.fromEntries(COLUMNS.map((column) => [column, names.indexOf(column)])) as Record<Column, number>;
    const missing = COLUMNS.filter((column) => place[column] === -1);
    if (missing.length > 0) throw new Error(`the published table ${table} has no column ${missing.join(", ")}`);
    this.#place = place;
  }

  /** Undefined where nobody wants the row. */
  insert(chunk: Buffer, from: number): EventRow | undefined {
    const place = this.#place;
    if (!place) throw new Error("a row came before its table was described");
    let at = from + 5; // the table's oid, 'N'
    const count = chunk.readInt16BE(at);
    at += 2;
    for (let index = 0; index < count; index++) {
      if (chunk[at] === NULL_VALUE) {
        this.#lengths[index] = -1;
        at += 1;
      } else {
        const length = chunk.readInt32BE(at + 1);
        this.#offsets[index] = at + 5;
        this.#lengths[index] = length;
        at += 5 + length;
      }
    }
    const type = this.#text(chunk, place.type) ?? "";
    if (!this.#wants(type)) return undefined;
    return {
      slot: Number(this.#text(chunk, place.slot)),
      id: this.#text(chunk, place.id) ?? "",
      type,
      subject: this.#text(chunk, place.subject) ?? "",
      actor: this.#text(chunk, place.actor),
      request_id: this.#text(chunk, place.request_id),
      idem_key: this.#text(chunk, place.idem_key),
      data: this.#text(chunk, place.data) ?? "null",
      at: this.#text(chunk, place.at) ?? "",
    };
  }

  #text(chunk: Buffer, column: number): string | null {
    const length = this.#lengths[column] ?? -1;
    const offset = this.#offsets[column] ?? 0;
    return length === -1 ? null : chunk.toString("utf8", offset, offset + length);
  }
}
