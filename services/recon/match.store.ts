/**
 * A statement against the books of one database, three ways: channel's line ↔ payment, refund or payout ↔ transfer, as three hash joins of whole
 * sets: a million lines take some seconds. One transaction: what it found, what that explains of earlier days, and its count, or nothing.
 */
import type pg from "pg";
import { composeId, ID_EPOCH_MS, isId } from "../../domain/ids.ts";
import { DAY_EDGE_MINUTES, type LineKind } from "../../domain/recon/difference.ts";
import type { ClassCount } from "./recon.store.ts";

export interface Match {
  readonly statementId: string;
  readonly channel: string;
  readonly source: "STATEMENT" | "QUERY";
  readonly day: string;
  /** What of ours must be on it. */
  readonly from: Date;
  readonly to: Date;
  /** What was booked after it came is not missed on it. */
  readonly came: Date;
  /** Kinds it tells of; others of ours are not missed. */
  readonly kinds: readonly string[];
  /** The keyspace's number; 0: the users', where only lines lie that lead nowhere. */
  readonly city: number;
}

/** Payments are made at most a day before they are paid (ORDER_TTL_SECONDS), and booked when the channel's word arrives, at most days later. */
const SLACK_MS = 3 * 86_400_000;

const LINES = `
  lines as materialized (
    select slot, kind, number, subject, channel_no, amount, currency, under_way, row_number() over (partition by kind, number order by line)::integer as nth
      from recon_lines where statement_id = $1)`;

/** Records of the channel by number; `$3` and `$4` bound their ids, which tell the time. */
const OURS = `
  ours as materialized (
    select 'PAYMENT' as kind, id, slot, coalesce(paid_amount, amount) as amount, coalesce(paid_currency, 'CNY') as currency, paid_at as at, state, channel_no,
           state = 'CONFIRMED' or (state = 'FAILED' and paid_at is not null) as done
      from payments where channel = $2 and id between $3 and $4
    union all
    select 'REFUND', id, slot, amount, 'CNY', null, state, channel_no, state = 'SUCCEEDED' from refunds where channel = $2 and id between $3 and $4
    union all
    select k.kind, id, slot, amount, 'CNY', null, state, channel_no, state = any(k.done)
      from payouts, (values ('PAYOUT', array['SUCCEEDED', 'RETURNED']), ('PAYOUT_RETURN', array['RETURNED'])) as k(kind, done)
     where channel = $2 and id between $3 and $4)`;

/** What was booked on the accounts that mirror the channel; foreign money has an account of its own, named by its currency. */
const BOOKED = `
  booked as materialized (
    select case code when 'refund-paid' then 'REFUND' when 'payout-paid' then 'PAYOUT' when 'payout-returned' then 'PAYOUT_RETURN' else 'PAYMENT' end as kind,
           business_key::bigint as id, slot, amount, coalesce(nullif(split_part(debit_account, ':', 3), ''), 'CNY') as currency, at
      from transfers
     where state = 'POSTED' and at >= $5 and business_key ~ '^[1-9][0-9]{0,17}$'
       and case code when 'pay' then debit_account = 'channel:' || $2 when 'pay-differs' then debit_account = 'channel:' || $2 or debit_account like 'channel:' || $2 || ':%'
                     when 'refund-paid' then credit_account = 'channel:' || $2 when 'payout-paid' then credit_account = 'payout:' || $2
                     when 'payout-returned' then debit_account = 'payout:' || $2 else false end)`;

const JUDGE = `
  create temp table judged on commit drop as
  with ${LINES}, ${OURS}, ${BOOKED}
  select l.kind, l.number, coalesce(o.slot, l.slot) as slot, l.nth, l.channel_no, b.amount as ours, l.amount as theirs, l.currency, o.state as our_state,
         case when l.nth > 1 then 'DUPLICATE'
              when o.id is null then 'LONG'
              when (l.amount, l.currency) is distinct from (o.amount, o.currency) or b.amount <> l.amount then 'AMOUNT'
              -- A refund that was under way when the channel wrote: no later statement mentions it, and it is asked for until it is through.
              when b.amount is null or not o.done then case when l.under_way then 'MATCHED' else 'STATUS' end
              else 'MATCHED' end as class
    from lines l
    left join ours o on o.kind = l.kind and o.id = l.subject
    left join booked b on b.kind = l.kind and b.id = l.subject
  union all
  select b.kind, b.id::text, b.slot, 0, o.channel_no, b.amount, null, b.currency, o.state,
         case when least(coalesce(o.at, b.at) - $6::timestamptz, $7::timestamptz - coalesce(o.at, b.at)) <= make_interval(mins => $8) then 'TIMING' else 'SHORT' end
    from booked b
    left join ours o on o.kind = b.kind and o.id = b.id
    left join (select distinct kind, subject from lines) l on l.kind = b.kind and l.subject = b.id
   where l.subject is null and b.kind = any($9) and b.at < $10 and coalesce(o.at, b.at) >= $6 and coalesce(o.at, b.at) < $7`;

/** Lines that lead nowhere. */
const JUDGE_STRAYS = `
  create temp table judged on commit drop as
  with ${LINES}
  select kind, number, slot, nth, channel_no, null::bigint as ours, amount as theirs, currency, null::text as our_state,
         case when nth > 1 then 'DUPLICATE' else 'LONG' end as class
    from lines`;

/**
 * What is missing, or is another sum, under a number of ours is the same money on whichever day it is missed: what a person has decided of it stays
 * decided, also when a query asks about it under another day.
 */
const KEEP = `
  insert into recon_differences (slot, id, statement_id, channel, day, class, kind, number, channel_no, nth, ours, theirs, currency, our_state)
  select slot, (mint_ids($4, slot, 1))[1], $1, $2,
         coalesce((select r.day from recon_differences r
                    where r.slot = j.slot and r.channel = $2 and r.kind = j.kind and r.number = j.number and r.class = j.class and r.nth = j.nth
                      and (r.ours, r.theirs) is not distinct from (j.ours, j.theirs) and r.class in ('SHORT', 'AMOUNT') and r.state = 'RESOLVED' limit 1), $3::date),
         class, kind, number, channel_no, nth, ours, theirs, currency, our_state
    from judged j where class <> 'MATCHED'
  on conflict (slot, channel, day, kind, number, class, nth, (coalesce(ours, -1)), (coalesce(theirs, -1))) do update set statement_id = excluded.statement_id`;
/** What was missed on one day stands on another's. */
const EXPLAIN = `
  update recon_differences d set state = 'CLEARING', why = 'it is on the statement of ' || $2::text
    from judged j
   where j.class = 'MATCHED' and d.state = 'OPEN' and d.channel = $1 and d.kind = j.kind and d.number = j.number and d.class in ('TIMING', 'SHORT', 'STATUS')`;
/** The same day's statement came again, mended. */
const SUPERSEDE = `
  update recon_differences set state = 'CLEARING', why = 'it is not on the statement that came later'
   where channel = $2 and day = $3 and statement_id <> $1 and state = 'OPEN'`;
const COUNT = `select class, count(*)::integer as count, coalesce(sum(coalesce(theirs, ours)), 0)::text as amount from judged group by class`;

/** Numbers under which the books say that something moved at the channel between two times. */
const MOVED = `
  with ${OURS}, ${BOOKED}
  select b.kind, b.id::text as number, b.currency, coalesce(o.at, b.at) as at from booked b left join ours o on o.kind = b.kind and o.id = b.id
   where coalesce(o.at, b.at) >= $6 and coalesce(o.at, b.at) < $7 and b.at < $7 and $1::bigint is not null
   order by 4 desc limit $8`;
export interface MovedRow {
  readonly kind: LineKind;
  readonly number: string;
  readonly at: Date;
}
export async function findMoved(
  client: pg.Client,
  of: { channel: string; from: Date; to: Date; limit: number },
): Promise<readonly MovedRow[]> {
  const { channel, from, to, limit } = of;
  const since = from.getTime() - SLACK_MS;
  const { rows } = await client.query<MovedRow>(MOVED, [
    0,
    channel,
    String(idAt(since)),
    String(idAt(to.getTime())),
    new Date(since),
    from,
    to,
    limit,
  ]);
  return rows;
}

/** Matches this database's part, in a transaction that is its caller's; a part that is matched already is only read. */
export async function matchPart(client: pg.Client, match: Match): Promise<readonly ClassCount[]> {
  const { statementId, channel, day, city, source } = match;
  const done = await client.query<{ counts: readonly ClassCount[] }>("select counts from recon_parts where statement_id = $1", [
    statementId,
  ]);
  if (done.rows[0]) return done.rows[0].counts;
  if (city === 0) await client.query(JUDGE_STRAYS, [statementId]);
  else await client.query(JUDGE, await boundsOf(client, match));
  await client.query(KEEP, [statementId, channel, day, city]);
  await client.query(EXPLAIN, [channel, day]);
  if (source === "STATEMENT") await client.query(SUPERSEDE, [statementId, channel, day]);
  const { rows } = await client.query<ClassCount>(COUNT);
  await client.query("insert into recon_parts (statement_id, counts) values ($1, $2)", [statementId, JSON.stringify(rows)]);
  return rows;
}

const idAt = (ms: number): bigint => BigInt(composeId({ ms: Math.max(ms, ID_EPOCH_MS), sequence: 0, city: 0, slot: 0 }));

async function boundsOf(client: pg.Client, { statementId, channel, from, to, came, kinds, source }: Match): Promise<unknown[]> {
  const { rows } = await client.query<{ low: string | null; high: string | null }>(
    "select min(subject) as low, max(subject) as high from recon_lines where statement_id = $1",
    [statementId],
  );
  const around = [idAt(from.getTime() - SLACK_MS), idAt(to.getTime())];
  const named = [rows[0]?.low, rows[0]?.high].flatMap((id) => (id !== null && id !== undefined && isId(id) ? [BigInt(id)] : []));
  const all = [...around, ...named];
  const low = all.reduce((a, b) => (b < a ? b : a));
  const high = all.reduce((a, b) => (b > a ? b : a));
  // What was asked for number by number is there or is not: there is no edge of a day.
  const edge = source === "QUERY" ? -1 : DAY_EDGE_MINUTES;
  return [statementId, channel, String(low), String(high), new Date(from.getTime() - SLACK_MS), from, to, edge, kinds, came];
}
