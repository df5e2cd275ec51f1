-- Statements of channels, and the answers of a channel that was asked for its latest (QUERY): of no city, so here. Slot by the channel's name.
create table recon_statements (
  slot smallint not null,
  id bigint not null,
  channel text not null,
  source text not null check (source in ('STATEMENT', 'QUERY')),
  day date not null,
  -- What of ours must be on it: a Chinese day, or the hours that were asked about.
  from_at timestamptz not null,
  to_at timestamptz not null,
  -- RECEIVING: lines are coming in. RECEIVED: all are there. MATCHED: every database has matched its part. DONE: what is off is booked.
  state text not null check (state in ('RECEIVING', 'RECEIVED', 'MATCHED', 'DONE', 'FAILED')),
  lines integer not null default 0,
  counts json,
  error text,
  requested_by bigint,
  -- Until then it is somebody's; after that he is taken for dead.
  lease_until timestamptz not null,
  created_at timestamptz not null,
  ended_at timestamptz,
  unfinished boolean not null generated always as (state in ('RECEIVING', 'RECEIVED', 'MATCHED')) stored,
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('recon_statements');
create index recon_statements_unfinished on recon_statements (lease_until) where unfinished;
