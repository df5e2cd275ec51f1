-- What every keyspace stands on: addresses, books, events, idempotency keys.

-- ---------------------------------------------------------------------------------------------------------------------------
-- Addresses. One row: which keyspace this database belongs to; a start refuses a database that says otherwise.
create table keyspace (
  only_row boolean primary key default true check (only_row),
  city smallint not null check (city between 0 and 255)
);

-- Partitions of a table by slot, all sixteen, whichever slots this database serves: a moved slot finds its partition there.
-- Until its first ANALYZE PostgreSQL takes `slot = $1` for one row in 200 of a partition, although it is all of them, prefers scanning
-- "those few" to looking keys up, and an update of 250 rows among 5,000 took 7.6 s instead of 4 ms. From 18 on the truth can be told.
create function partition_by_slot(parent regclass, storage text default '') returns void language plpgsql as $$
declare
  part text;
begin
  for slot in 0..15 loop
    part := parent::text || '_' || to_char(slot, 'FM00');
    execute format('create table %I partition of %s for values in (%s) %s', part, parent, slot, storage);
    if current_setting('server_version_num')::integer >= 180000 then
      execute format(
        'select pg_restore_attribute_stats(''schemaname'', current_schema()::text, ''relname'', %L::text, ''attname'', ''slot''::text, ''inherited'', false,
                ''null_frac'', 0::real, ''avg_width'', 2, ''n_distinct'', 1::real, ''most_common_vals'', %L::text, ''most_common_freqs'', ''{1}''::real[])',
        part, format('{%s}', slot));
    end if;
  end loop;
end $$;

-- What mint_ids counts with.
create sequence id_clock as bigint;

-- Mints `n` ids of one shard: milliseconds since 2025-01-01 (41 bits) | sequence (10) | city (8) | slot (4), ascending.
-- The sequence holds milliseconds and counter together (51 bits) and only ever goes up: it is pulled forward to the clock when it lags, and
-- counts on when the clock stands still, goes back, or more than 1,024 ids are minted in one millisecond. So no id comes twice, whatever
-- the clock does. The advisory lock is held for the few microseconds of the move, not for the transaction; sequences do not roll back.
-- It belongs to the session, so a call that is cancelled in the middle gives it back itself: nobody else could mint until the session ended.
create function mint_ids(city integer, slot integer, n integer) returns bigint[] language plpgsql as $$
declare
  first bigint;
begin
  if n <= 0 then
    return '{}';
  end if;
  begin
    perform pg_advisory_lock(7431, 1);
    select greatest(case when is_called then last_value + 1 else last_value end, ((extract(epoch from clock_timestamp()) * 1000)::bigint - 1735689600000) << 10)
      into first from id_clock;
    perform setval('id_clock', first + n - 1);
    perform pg_advisory_unlock(7431, 1);
  exception when query_canceled or others then
    perform pg_advisory_unlock(7431, 1);
    raise;
  end;
  return array(select (base << 12) | (city << 4) | slot from generate_series(first, first + n - 1) base);
end $$;

-- ---------------------------------------------------------------------------------------------------------------------------
-- The books. A transfer has two sides by construction. Account codes are readable: `wallet:<user>`, `transit:<city>`, `escrow:<merchant>`.
-- Control accounts exist once a shard, so no row is shared between shards and no account is hot beyond its mailbox.
create table accounts (
  slot smallint not null,
  account text not null,
  debits_pending bigint not null default 0 check (debits_pending >= 0),
  debits_posted bigint not null default 0 check (debits_posted >= 0),
  credits_pending bigint not null default 0 check (credits_pending >= 0),
  credits_posted bigint not null default 0 check (credits_posted >= 0),
  -- Wallets and payables have a floor: what is spent or promised never exceeds what is there. Control accounts have none.
  floored boolean not null,
  primary key (slot, account),
  constraint accounts_floor check (not floored or credits_posted - debits_posted - debits_pending >= 0)
) partition by list (slot);
select partition_by_slot('accounts', 'with (fillfactor = 50)');

-- Append-only. A PENDING row promises; a later row, POSTED or VOIDED, with its `pending_id` ends it; a POSTED row without one moves at once.
create table transfers (
  slot smallint not null,
  id bigint not null,
  seq bigint not null,
  debit_account text not null,
  credit_account text not null,
  amount bigint not null check (amount > 0),
  code text not null,
  state text not null check (state in ('PENDING', 'POSTED', 'VOIDED')),
  business_key text not null,
  pending_id bigint,
  order_id bigint,
  at timestamptz not null,
  prev_hash bytea not null,
  hash bytea not null,
  primary key (id, slot),
  check (debit_account <> credit_account)
) partition by list (slot);
select partition_by_slot('transfers');
-- In these indexes the slot, constant in a partition, comes last: while a table is young, PostgreSQL holds reading a whole slot by an index that
-- begins with it to be as good as looking a key up, and keeps that plan while the table grows (3 ms a look-up among 250 rows).
-- One business event, one transfer: a repeat finds its row here.
create unique index transfers_business_key on transfers (code, business_key, state, slot);
create unique index transfers_seq on transfers (seq, slot);
create unique index transfers_pending on transfers (pending_id, slot) where pending_id is not null;
-- What moved in and out of a wallet. Nobody lists promises, or control accounts: they would be five of six entries.
create index transfers_out on transfers (debit_account, id) where state = 'POSTED' and debit_account like 'wallet:%';
create index transfers_in on transfers (credit_account, id) where state = 'POSTED' and credit_account like 'wallet:%';

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end $$;
create trigger transfers_append_only before update or delete on transfers for each row execute function refuse_change();

-- The head of each slot's hash chain: the lock that orders its transfers.
create table chain_heads (
  slot smallint primary key,
  seq bigint not null,
  hash bytea not null
);
insert into chain_heads select slot, 0, decode(repeat('00', 32), 'hex') from generate_series(0, 15) slot;

-- A TCC phase enters through a row here: repeats are no-ops, a cancel whose try never came leaves a mark, a try after it is refused.
create table tcc_barriers (
  slot smallint not null,
  xid bigint not null,
  branch text not null,
  phase text not null check (phase in ('try', 'confirm', 'cancel')),
  -- The phase that wrote the row: a `try` row written by `cancel` is the mark of an empty cancel.
  by_phase text not null,
  primary key (slot, xid, branch, phase)
) partition by list (slot);
select partition_by_slot('tcc_barriers');

-- ---------------------------------------------------------------------------------------------------------------------------
-- What happened, to which key, by whom, under which request and idempotency key. Rows travel by the write-ahead log (publication below).
create table events (
  slot smallint not null,
  id bigint generated always as identity,
  type text not null,
  subject bigint not null,
  actor bigint,
  request_id text,
  idem_key text,
  data json not null,
  at timestamptz not null default now(),
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('events');
create publication events for table events with (publish = 'insert', publish_via_partition_root = true);

-- One row per (consumer, event): effect and mark in one transaction, so a second delivery does nothing.
create table inbox (
  consumer text not null,
  source text not null,
  event_id bigint not null,
  at timestamptz not null default now(),
  primary key (consumer, source, event_id)
);

-- Events a consumer could not digest: kept with their error for a person, blocking nobody.
create table parked_events (
  consumer text not null,
  source text not null,
  event_id bigint not null,
  event json not null,
  error text not null,
  attempts integer not null,
  at timestamptz not null default now(),
  primary key (consumer, source, event_id)
);

-- How far each event consumer is, by slot: where reading this table goes on when the replication slot was lost.
create table relay_marks (
  consumer text not null,
  slot smallint not null,
  event_id bigint not null,
  -- False: events after the mark may have passed by while nobody listened, so they are read from the table first.
  replayed boolean not null,
  -- Raised by each relay that takes over; what an earlier one still writes is refused.
  epoch integer not null,
  primary key (consumer, slot)
);

-- Idempotency keys with their stored answers, for everything but orders (an order row is its own stored answer).
create table requests (
  slot smallint not null,
  caller bigint not null,
  operation text not null,
  idem_key text not null,
  body_hash bytea not null,
  answer json not null,
  at timestamptz not null default now(),
  primary key (slot, caller, idem_key)
) partition by list (slot);
select partition_by_slot('requests');
