/**
 * The stock gate in Redis: what several nodes that serve one shard know together. Calls of one turn of the event loop to one shard are one
 * script call. Keys carry their shard as hash tag, so a call stays on one node of a Redis Cluster; nothing expires: stock that is live must
 * not vanish, and what has vanished (FLUSHALL, a failover) only opens the gate until the next commit or the repairer tells it again.
 */
import { shardKey, shardOf } from "../domain/ids.ts";
import { invariant } from "../domain/invariant.ts";
import { LIMITS } from "../domain/limits.ts";
import { RedisUnavailable, type RedisClient, type RedisLink } from "./redis.ts";
import {
  checkQuantity,
  crowd,
  ENTRY_MS,
  FRESH_MS,
  HISTORY_MS,
  OpenDoor,
  type Entry,
  type StockFact,
  type StockGate,
} from "./stock-gate.ts";

/**
 * Of each deal two keys: a hash (`b0`, `v0` …: available and version of each bucket; `left`, their sum; `known`, how many there are, and `of`
 * how many there should be; `fresh`, when all of them were confirmed; `entered`, units of those inside) and a sorted set of those inside
 * (`quantity:request`, by when they are given up). Time is Redis' own.
 */
const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)`;

/** KEYS: both of each deal. ARGV: for each deal, how many requests, then request and quantity of each. Answers { way, left } a request: 0 too few left, 1 in, 2 in while nothing is known, 3 crowded. */
const ENTER = `${NOW}
local answers, at = {}, 1
for k = 1, #KEYS, 2 do
  local stock, inside = KEYS[k], KEYS[k + 1]
  local known = redis.call('HMGET', stock, 'left', 'known', 'of', 'fresh', 'entered')
  local entered = tonumber(known[5]) or 0
  local before = entered
  for _, late in ipairs(redis.call('ZRANGEBYSCORE', inside, '-inf', now)) do
    entered = entered - tonumber(string.match(late, '^%d+'))
    redis.call('ZREM', inside, late)
  end
  local isKnown = known[2] and known[2] == known[3]
  local isFresh = isKnown and math.abs(now - tonumber(known[4])) < ${FRESH_MS}
  local left = tonumber(known[1]) or 0
  local count = tonumber(ARGV[at])
  for i = at + 1, at + count * 2, 2 do
    local quantity = tonumber(ARGV[i + 1])
    if not quantity or quantity < 1 or quantity ~= math.floor(quantity) then return redis.error_reply('ERR a quantity is a whole number, one at least') end
    local member = string.format('%d:%s', quantity, ARGV[i])
    local way = isKnown and 1 or 2
    -- Inside already where it was sent again.
    if not redis.call('ZSCORE', inside, member) then
      if isFresh and left < quantity then
        way = 0
      elseif isFresh and entered >= left + ${LIMITS.gateCrowdMax} then
        way = 3
      else
        redis.call('ZADD', inside, now + ${ENTRY_MS}, member)
        entered = entered + quantity
      end
    end
    answers[#answers + 1] = way
    answers[#answers + 1] = left
  end
  if entered ~= before then redis.call('HSET', stock, 'entered', entered) end
  at = at + 1 + count * 2
end
return answers`;

/** KEYS as above. ARGV: for each deal, how many leave and how many facts; request and quantity of each; then \`of\` (0: unknown) and bucket, available, version of each. Answers how many buckets were not what they were told to be. */
const SETTLE = `${NOW}
local changed, at = 0, 1
for k = 1, #KEYS, 2 do
  local stock, inside = KEYS[k], KEYS[k + 1]
  local leaving, facts, of = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  at = at + 3
  local left = 0
  for i = at, at + leaving * 2 - 1, 2 do
    if redis.call('ZREM', inside, string.format('%d:%s', tonumber(ARGV[i + 1]), ARGV[i])) == 1 then left = left + tonumber(ARGV[i + 1]) end
  end
  if left > 0 then redis.call('HINCRBY', stock, 'entered', -left) end
  at = at + leaving * 2
  if facts > 0 then
    local fresh = tonumber(redis.call('HGET', stock, 'fresh')) or 0
    for i = at, at + facts * 3 - 1, 3 do
      local bucket, available, version = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
      local old = redis.call('HMGET', stock, 'v' .. bucket, 'b' .. bucket)
      if not old[1] or version >= tonumber(old[1]) or now - fresh > ${HISTORY_MS} then
        if not old[1] then redis.call('HINCRBY', stock, 'known', 1) end
        if old[1] ~= ARGV[i + 2] or old[2] ~= ARGV[i + 1] then
          redis.call('HSET', stock, 'v' .. bucket, ARGV[i + 2], 'b' .. bucket, ARGV[i + 1])
          redis.call('HINCRBY', stock, 'left', available - (tonumber(old[2]) or 0))
          changed = changed + 1
        end
      end
    end
    if of == facts then redis.call('HSET', stock, 'of', of, 'fresh', now) end
    at = at + facts * 3
  end
end
return changed`;

/** What ioredis makes of the scripts: sent by their digest, and whole where the server has never seen them. */
interface Scripts {
  gateEnter(keys: number, ...args: readonly (string | number)[]): Promise<number[]>;
  gateSettle(keys: number, ...args: readonly (string | number)[]): Promise<number>;
}
const scriptsOf = (client: RedisClient): Scripts => client as unknown as Scripts;

const keysOf = (dealId: string): [string, string] => {
  const key = `{${shardKey(shardOf(dealId))}}gate:${dealId}`;
  return [key, `${key}:in`];
};

interface Knock {
  readonly entry: Entry;
  readonly resolve: (left: number | undefined) => void;
  readonly reject: (error: unknown) => void;
}
/** What is told of one deal in one call. */
interface Telling {
  readonly leaving: Entry[];
  readonly facts: Map<number, StockFact>;
  of: number;
}

export class RedisStockGate implements StockGate {
  readonly #link: RedisLink;
  readonly #door = new OpenDoor();
  /** A deal was asked for that Redis knows nothing of; whoever repairs sets it back. */
  isMissing = false;
  #knocks: Knock[] = [];
  readonly #tellings = new Map<string, Telling>();
  #flush: Promise<void> | undefined;

  constructor(link: RedisLink) {
    this.#link = link;
    link.client.defineCommand("gateEnter", { lua: ENTER });
    link.client.defineCommand("gateSettle", { lua: SETTLE });
  }

  enter(entry: Entry): Promise<number | undefined> {
    checkQuantity(entry.quantity);
    return new Promise((resolve, reject) => {
      this.#knocks.push({ entry, resolve, reject });
      this.#later();
    });
  }

  leave(entry: Entry): void {
    this.#door.leave(entry);
    this.#telling(entry.dealId).leaving.push(entry);
    this.#later();
  }

  note(facts: readonly StockFact[]): void {
    for (const fact of facts) {
      const telling = this.#telling(fact.dealId);
      const told = telling.facts.get(fact.bucket);
      if (!told || told.version <= fact.version) telling.facts.set(fact.bucket, fact);
      telling.of = Math.max(telling.of, fact.of ?? 0);
    }
    this.#later();
  }

  forget(dealIds: readonly string[]): void {
    const gone = dealIds.map((dealId) => this.#link.run((client) => client.del(...keysOf(dealId))));
    // What stays is a key too many, until somebody looks at what Redis holds.
    void Promise.allSettled(gone);
  }

  /** Facts at once, and how many were news to Redis. Throws RedisUnavailable. */
  async repair(facts: readonly StockFact[]): Promise<number> {
    const byDeal = new Map<string, Telling>();
    for (const [dealId, some] of Map.groupBy(facts, (fact) => fact.dealId))
      byDeal.set(dealId, { leaving: [], facts: new Map(some.map((fact) => [fact.bucket, fact])), of: some[0]?.of ?? 0 });
    const changed = await Promise.all(this.#calls(byDeal).map((args) => this.#link.run((client) => scriptsOf(client).gateSettle(...args))));
    return changed.reduce((sum, one) => sum + one, 0);
  }

  async close(): Promise<void> {
    while (this.#flush !== undefined) await this.#flush;
  }

  #telling(dealId: string): Telling {
    const known = this.#tellings.get(dealId);
    if (known) return known;
    const telling: Telling = { leaving: [], facts: new Map(), of: 0 };
    this.#tellings.set(dealId, telling);
    return telling;
  }

  /** In the next turn: what this one still says goes along. */
  #later(): void {
    this.#flush ??= new Promise<void>((resolve) => setImmediate(resolve)).then(async () => {
      this.#flush = undefined;
      // What is told first is known to those who knock in the same turn: one connection, in order.
      await Promise.all([this.#tell(), this.#ask()]);
    });
  }

  async #tell(): Promise<void> {
    const tellings = new Map(this.#tellings);
    this.#tellings.clear();
    const calls = this.#calls(tellings).map((args) => this.#link.run((client) => scriptsOf(client).gateSettle(...args)));
    // Counted where it failed. What was not told is stale within a second, and then refuses nobody.
    await Promise.allSettled(calls);
  }

  async #ask(): Promise<void> {
    const knocks = this.#knocks;
    this.#knocks = [];
    const byShard = Map.groupBy(knocks, ({ entry }) => shardKey(shardOf(entry.dealId)));
    await Promise.all([...byShard.values()].map((some) => this.#askShard(some)));
  }

  async #askShard(knocks: readonly Knock[]): Promise<void> {
    const byDeal = Map.groupBy(knocks, ({ entry }) => entry.dealId);
    const keys = [...byDeal.keys()].flatMap(keysOf);
    const args = [...byDeal.values()].flatMap((some) => [some.length, ...some.flatMap(({ entry }) => [entry.requestId, entry.quantity])]);
    let answers: readonly number[] | undefined;
    try {
      answers = await this.#link.run((client) => scriptsOf(client).gateEnter(keys.length, ...keys, ...args));
    } catch (error) {
      invariant(error instanceof RedisUnavailable, "a link fails in one way");
    }
    let at = 0;
    for (const some of byDeal.values()) {
      for (const knock of some) {
        const [way = 2, left = 0] = answers?.slice(at, at + 2) ?? [];
        at += 2;
        if (way === 0) knock.resolve(left);
        else if (way === 1) knock.resolve(undefined);
        else if (way === 2) this.#throughOpenDoor(knock);
        else knock.reject(crowd());
      }
    }
  }

  #throughOpenDoor({ entry, resolve, reject }: Knock): void {
    this.isMissing = true;
    try {
      this.#door.enter(entry);
      resolve(undefined);
    } catch (error) {
      // What Redis may have counted of it is taken back.
      this.#telling(entry.dealId).leaving.push(entry);
      this.#later();
      reject(error);
    }
  }

  /** The arguments of one script call a shard. */
  #calls(tellings: ReadonlyMap<string, Telling>): [number, ...(string | number)[]][] {
    return [...Map.groupBy(tellings, ([dealId]) => shardKey(shardOf(dealId))).values()].map((deals) => {
      const keys = deals.flatMap(([dealId]) => keysOf(dealId));
      const args = deals.flatMap(([, { leaving, facts, of }]) => [
        leaving.length,
        facts.size,
        of,
        ...leaving.flatMap(({ requestId, quantity }) => [requestId, quantity]),
        ...[...facts.values()].flatMap(({ bucket, available, version }) => [bucket, available, version]),
      ]);
      return [keys.length, ...keys, ...args];
    });
  }
}
