-- A transfer is written four times in the life of an order, and nobody looks one up by its id: its place in the slot's chain is its key.
-- One index entry less for each; `id` stays the database's own count (mint_ids), so it cannot come twice.
alter table transfers drop constraint transfers_pkey;
alter table transfers add primary key (seq, slot);
drop index transfers_seq;

-- What of this database's stream (NATS JetStream) was last published, under the publisher's name, or handled, under each event consumer's.
create table stream_positions (
  consumer text primary key,
  -- Sequence numbers are counted within it: it is another one when the stream is not the stream it was.
  chain text not null,
  seq bigint not null,
  at timestamptz not null default now()
);

-- A person wants a parked event handed over again; whichever node has its consumer finds it.
alter table parked_events add column replaying boolean not null default false;
create index parked_events_replaying on parked_events (consumer) where replaying;
