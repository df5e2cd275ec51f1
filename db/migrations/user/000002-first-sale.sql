-- The user keyspace (city 0): people, their wallets, and what is shown to them. Slot by murmur3 of the user name.

-- ---------------------------------------------------------------------------------------------------------------------------
-- People.
create table users (
  slot smallint not null,
  id bigint not null,
  username text not null,
  password_hash text not null,
  roles text[] not null,
  merchant_id bigint,
  created_at timestamptz not null default now(),
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('users');
create unique index users_username on users (slot, username);

-- Refresh tokens rotate: using one a second time revokes its whole family.
create table refresh_tokens (
  slot smallint not null,
  token_hash bytea not null,
  family bigint not null,
  user_id bigint not null,
  state text not null check (state in ('LIVE', 'USED', 'REVOKED')),
  expires_at timestamptz not null,
  primary key (slot, token_hash)
) partition by list (slot);
select partition_by_slot('refresh_tokens');
create index refresh_tokens_family on refresh_tokens (slot, family);
create index refresh_tokens_user on refresh_tokens (slot, user_id);

create table topups (
  slot smallint not null,
  id bigint not null,
  user_id bigint not null,
  channel text not null,
  amount bigint not null check (amount > 0),
  state text not null check (state in ('PROCESSING', 'SUCCEEDED', 'FAILED')),
  created_at timestamptz not null default now(),
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('topups');

-- A consumer's orders live with their merchants; this index of them is fed by events.
create table order_index (
  slot smallint not null,
  user_id bigint not null,
  order_id bigint not null,
  primary key (slot, user_id, order_id)
) partition by list (slot);
select partition_by_slot('order_index');

-- What a user is told. The event is the mark: a second delivery inserts nothing.
create table notifications (
  slot smallint not null,
  user_id bigint not null,
  -- Ascending in the order of commits (writers take turns), so that a stream of them can be resumed after any of them.
  id bigint generated always as identity,
  -- The shard the event is of, as `city/slot`: an event's id is unique there, also when the slot moves to another database.
  source text not null,
  event_id bigint not null,
  kind text not null,
  data json not null,
  at timestamptz not null,
  read_at timestamptz,
  primary key (slot, user_id, source, event_id)
) partition by list (slot);
select partition_by_slot('notifications');
create index notifications_newest on notifications (slot, user_id, id);
