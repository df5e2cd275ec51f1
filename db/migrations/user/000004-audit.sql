-- Alike in both kinds of keyspace, and twice, because a file of shared/ has one number and the two kinds are at different ones by now.
-- Where in a table that only grows the transfers since some time begin: a few pages for millions of rows, and nothing to keep up but the newest range.
create index transfers_at on transfers using brin (at);

-- ---------------------------------------------------------------------------------------------------------------------------
-- Reconciliation. The lines of a statement while it is matched, each in the database its number leads to, or in the users' when it leads nowhere:
-- a partition a statement, made before the lines come and dropped when they are matched. The channel keeps the file; we keep what did not fit.
create table recon_lines (
  statement_id bigint not null,
  line integer not null,
  slot smallint not null,
  kind text not null,
  number text not null,
  -- The number, where it is an id of this database's.
  subject bigint,
  channel_no text not null,
  amount bigint not null,
  currency text not null,
  at timestamptz not null,
  under_way boolean not null
) partition by list (statement_id);

-- What came of a statement in this database, written in the transaction that matched it: done once, whoever was killed in between.
create table recon_parts (
  statement_id bigint primary key,
  -- By class: how many, and fen.
  counts json not null,
  at timestamptz not null default now()
);

create table recon_differences (
  slot smallint not null,
  id bigint not null,
  statement_id bigint not null,
  channel text not null,
  day date not null,
  class text not null check (class in ('LONG', 'SHORT', 'AMOUNT', 'STATUS', 'DUPLICATE', 'TIMING')),
  kind text not null check (kind in ('PAYMENT', 'REFUND', 'PAYOUT', 'PAYOUT_RETURN')),
  number text not null,
  channel_no text,
  -- Of lines that are there several times: which; 0 where there is no line.
  nth integer not null,
  -- What our books say, and what the statement says; null: nothing.
  ours bigint,
  theirs bigint,
  currency text not null,
  our_state text,
  -- CLEARING: explained, and what was booked to suspense for it is on its way back.
  state text not null default 'OPEN' check (state in ('OPEN', 'CLEARING', 'CLEARED')),
  booked boolean not null default false,
  -- What explained it, and who asked for that.
  why text,
  cleared_by bigint,
  -- What the channel said when it was last asked.
  asked_at timestamptz,
  answer text,
  created_at timestamptz not null default now(),
  cleared_at timestamptz,
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('recon_differences');
-- The same statement matched again finds the same differences.
create unique index recon_differences_once on recon_differences (slot, channel, day, kind, number, class, nth, (coalesce(ours, -1)), (coalesce(theirs, -1)));
create index recon_differences_statement on recon_differences (statement_id, id);
create index recon_differences_open on recon_differences (channel, kind, number) where state <> 'CLEARED';
-- What is off and not in suspense yet, or explained and still there: seldom any, and looked for every second.
create index recon_differences_due on recon_differences (id) where (state = 'OPEN' and not booked and class not in ('STATUS', 'TIMING')) or state = 'CLEARING';
