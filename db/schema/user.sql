-- A user keyspace after 000009-old-requests.sql. For reading: the migrations make it, tests/schema.test.ts compares it.

create sequence id_clock as bigint increment 1 minvalue 1 maxvalue 9223372036854775807 start 1;

CREATE OR REPLACE FUNCTION public.mint_ids(city integer, slot integer, n integer)
 RETURNS bigint[]
 LANGUAGE plpgsql
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.partition_by_slot(parent regclass, storage text DEFAULT ''::text)
 RETURNS void
 LANGUAGE plpgsql
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION public.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
begin
  raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end $function$;

create table accounts (
  slot smallint not null,
  account text not null,
  debits_pending bigint default 0 not null,
  debits_posted bigint default 0 not null,
  credits_pending bigint default 0 not null,
  credits_posted bigint default 0 not null,
  floored boolean not null,
  constraint accounts_pkey PRIMARY KEY (slot, account),
  constraint accounts_credits_pending_check CHECK ((credits_pending >= 0)),
  constraint accounts_credits_posted_check CHECK ((credits_posted >= 0)),
  constraint accounts_debits_pending_check CHECK ((debits_pending >= 0)),
  constraint accounts_debits_posted_check CHECK ((debits_posted >= 0)),
  constraint accounts_floor CHECK (((NOT floored) OR (((credits_posted - debits_posted) - debits_pending) >= 0)))
) partition by LIST (slot);
-- partitions: accounts_00 to accounts_15, one a slot with (fillfactor=50)

create table chain_heads (
  slot smallint not null,
  seq bigint not null,
  hash bytea not null,
  constraint chain_heads_pkey PRIMARY KEY (slot)
);

create table events (
  slot smallint not null,
  id bigint generated always as identity not null,
  type text not null,
  subject bigint not null,
  actor bigint,
  request_id text,
  idem_key text,
  data json not null,
  at timestamp with time zone default now() not null,
  constraint events_pkey PRIMARY KEY (slot, id)
) partition by LIST (slot);
-- partitions: events_00 to events_15, one a slot

create table inbox (
  consumer text not null,
  source text not null,
  event_id bigint not null,
  at timestamp with time zone default now() not null,
  constraint inbox_pkey PRIMARY KEY (consumer, source, event_id)
);

create table keyspace (
  only_row boolean default true not null,
  city smallint not null,
  constraint keyspace_pkey PRIMARY KEY (only_row),
  constraint keyspace_city_check CHECK (((city >= 0) AND (city <= 255))),
  constraint keyspace_only_row_check CHECK (only_row)
);

create table migrations (
  number integer not null,
  name text not null,
  checksum text not null,
  at timestamp with time zone default now() not null,
  constraint migrations_pkey PRIMARY KEY (number)
);

create table notifications (
  slot smallint not null,
  user_id bigint not null,
  id bigint generated always as identity not null,
  source text not null,
  event_id bigint not null,
  kind text not null,
  data json not null,
  at timestamp with time zone not null,
  read_at timestamp with time zone,
  constraint notifications_pkey PRIMARY KEY (slot, user_id, source, event_id)
) partition by LIST (slot);
-- partitions: notifications_00 to notifications_15, one a slot
CREATE INDEX notifications_at ON notifications USING brin (at);
CREATE INDEX notifications_newest ON notifications USING btree (slot, user_id, id);

create table order_index (
  slot smallint not null,
  user_id bigint not null,
  order_id bigint not null,
  constraint order_index_pkey PRIMARY KEY (slot, user_id, order_id)
) partition by LIST (slot);
-- partitions: order_index_00 to order_index_15, one a slot

create table parked_events (
  consumer text not null,
  source text not null,
  event_id bigint not null,
  event json not null,
  error text not null,
  attempts integer not null,
  at timestamp with time zone default now() not null,
  replaying boolean default false not null,
  constraint parked_events_pkey PRIMARY KEY (consumer, source, event_id)
);
CREATE INDEX parked_events_replaying ON parked_events USING btree (consumer) WHERE replaying;

create table recon_differences (
  slot smallint not null,
  id bigint not null,
  statement_id bigint not null,
  channel text not null,
  day date not null,
  class text not null,
  kind text not null,
  number text not null,
  channel_no text,
  nth integer not null,
  ours bigint,
  theirs bigint,
  currency text not null,
  our_state text,
  state text default 'OPEN'::text not null,
  booked boolean default false not null,
  why text,
  cleared_by bigint,
  asked_at timestamp with time zone,
  answer text,
  created_at timestamp with time zone default now() not null,
  cleared_at timestamp with time zone,
  constraint recon_differences_pkey PRIMARY KEY (slot, id),
  constraint recon_differences_class_check CHECK ((class = ANY (ARRAY['LONG'::text, 'SHORT'::text, 'AMOUNT'::text, 'STATUS'::text, 'DUPLICATE'::text, 'TIMING'::text]))),
  constraint recon_differences_kind_check CHECK ((kind = ANY (ARRAY['PAYMENT'::text, 'REFUND'::text, 'PAYOUT'::text, 'PAYOUT_RETURN'::text]))),
  constraint recon_differences_state_check CHECK ((state = ANY (ARRAY['OPEN'::text, 'CLEARING'::text, 'CLEARED'::text, 'RESOLVED'::text])))
) partition by LIST (slot);
-- partitions: recon_differences_00 to recon_differences_15, one a slot
CREATE INDEX recon_differences_due ON recon_differences USING btree (id) WHERE (((state = 'OPEN'::text) AND (NOT booked) AND (class <> ALL (ARRAY['STATUS'::text, 'TIMING'::text]))) OR (state = 'CLEARING'::text));
CREATE UNIQUE INDEX recon_differences_once ON recon_differences USING btree (slot, channel, day, kind, number, class, nth, COALESCE(ours, ('-1'::integer)::bigint), COALESCE(theirs, ('-1'::integer)::bigint));
CREATE INDEX recon_differences_open ON recon_differences USING btree (channel, kind, number) WHERE (state <> 'CLEARED'::text);
CREATE INDEX recon_differences_statement ON recon_differences USING btree (statement_id, id);
CREATE INDEX recon_differences_waiting ON recon_differences USING btree (id) WHERE ((state = 'OPEN'::text) AND (class <> ALL (ARRAY['STATUS'::text, 'TIMING'::text])));

create table recon_lines (
  statement_id bigint not null,
  line integer not null,
  slot smallint not null,
  kind text not null,
  number text not null,
  subject bigint,
  channel_no text not null,
  amount bigint not null,
  currency text not null,
  at timestamp with time zone not null,
  under_way boolean not null
) partition by LIST (statement_id);

create table recon_parts (
  statement_id bigint not null,
  counts json not null,
  at timestamp with time zone default now() not null,
  constraint recon_parts_pkey PRIMARY KEY (statement_id)
);

create table recon_statements (
  slot smallint not null,
  id bigint not null,
  channel text not null,
  source text not null,
  day date not null,
  from_at timestamp with time zone not null,
  to_at timestamp with time zone not null,
  state text not null,
  lines integer default 0 not null,
  counts json,
  error text,
  requested_by bigint,
  lease_until timestamp with time zone not null,
  created_at timestamp with time zone not null,
  ended_at timestamp with time zone,
  unfinished boolean generated always as (state = ANY (ARRAY['RECEIVING'::text, 'RECEIVED'::text, 'MATCHED'::text])) stored not null,
  constraint recon_statements_pkey PRIMARY KEY (slot, id),
  constraint recon_statements_source_check CHECK ((source = ANY (ARRAY['STATEMENT'::text, 'QUERY'::text]))),
  constraint recon_statements_state_check CHECK ((state = ANY (ARRAY['RECEIVING'::text, 'RECEIVED'::text, 'MATCHED'::text, 'DONE'::text, 'FAILED'::text])))
) partition by LIST (slot);
-- partitions: recon_statements_00 to recon_statements_15, one a slot
CREATE INDEX recon_statements_unfinished ON recon_statements USING btree (lease_until) WHERE unfinished;

create table refresh_tokens (
  slot smallint not null,
  token_hash bytea not null,
  family bigint not null,
  user_id bigint not null,
  state text not null,
  expires_at timestamp with time zone not null,
  constraint refresh_tokens_pkey PRIMARY KEY (slot, token_hash),
  constraint refresh_tokens_state_check CHECK ((state = ANY (ARRAY['LIVE'::text, 'USED'::text, 'REVOKED'::text])))
) partition by LIST (slot);
-- partitions: refresh_tokens_00 to refresh_tokens_15, one a slot
CREATE INDEX refresh_tokens_family ON refresh_tokens USING btree (slot, family);
CREATE INDEX refresh_tokens_user ON refresh_tokens USING btree (slot, user_id);

create table relay_marks (
  consumer text not null,
  slot smallint not null,
  event_id bigint not null,
  replayed boolean not null,
  epoch integer not null,
  arrived boolean default false not null,
  constraint relay_marks_pkey PRIMARY KEY (consumer, slot)
);

create table requests (
  slot smallint not null,
  caller bigint not null,
  operation text not null,
  idem_key text not null,
  body_hash bytea not null,
  answer json not null,
  at timestamp with time zone default now() not null,
  constraint requests_pkey PRIMARY KEY (slot, caller, idem_key)
) partition by LIST (slot);
-- partitions: requests_00 to requests_15, one a slot
CREATE INDEX requests_at ON requests USING brin (at);

create table stream_positions (
  consumer text not null,
  chain text not null,
  seq bigint not null,
  at timestamp with time zone default now() not null,
  constraint stream_positions_pkey PRIMARY KEY (consumer)
);

create table suspense_cases (
  slot smallint not null,
  id bigint not null,
  assignee text,
  outcome text,
  note text,
  resolved_by bigint,
  resolved_at timestamp with time zone,
  constraint suspense_cases_pkey PRIMARY KEY (slot, id),
  constraint suspense_cases_outcome_check CHECK ((outcome = ANY (ARRAY['GIVEN_BACK'::text, 'WRITTEN_OFF'::text]))),
  constraint suspense_cases_resolved CHECK ((num_nulls(outcome, note, resolved_by, resolved_at) = ANY (ARRAY[0, 4])))
) partition by LIST (slot);
-- partitions: suspense_cases_00 to suspense_cases_15, one a slot

create table tcc_barriers (
  slot smallint not null,
  xid bigint not null,
  branch text not null,
  phase text not null,
  by_phase text not null,
  constraint tcc_barriers_pkey PRIMARY KEY (slot, xid, branch, phase),
  constraint tcc_barriers_phase_check CHECK ((phase = ANY (ARRAY['try'::text, 'confirm'::text, 'cancel'::text])))
) partition by LIST (slot);
-- partitions: tcc_barriers_00 to tcc_barriers_15, one a slot

create table topups (
  slot smallint not null,
  id bigint not null,
  user_id bigint not null,
  channel text not null,
  amount bigint not null,
  state text not null,
  created_at timestamp with time zone default now() not null,
  constraint topups_pkey PRIMARY KEY (slot, id),
  constraint topups_amount_check CHECK ((amount > 0)),
  constraint topups_state_check CHECK ((state = ANY (ARRAY['PROCESSING'::text, 'SUCCEEDED'::text, 'FAILED'::text])))
) partition by LIST (slot);
-- partitions: topups_00 to topups_15, one a slot

create table transfers (
  slot smallint not null,
  id bigint not null,
  seq bigint not null,
  debit_account text not null,
  credit_account text not null,
  amount bigint not null,
  code text not null,
  state text not null,
  business_key text not null,
  pending_id bigint,
  order_id bigint,
  at timestamp with time zone not null,
  prev_hash bytea not null,
  hash bytea not null,
  constraint transfers_pkey PRIMARY KEY (seq, slot),
  constraint transfers_amount_check CHECK ((amount > 0)),
  constraint transfers_check CHECK ((debit_account <> credit_account)),
  constraint transfers_state_check CHECK ((state = ANY (ARRAY['PENDING'::text, 'POSTED'::text, 'VOIDED'::text])))
) partition by LIST (slot);
-- partitions: transfers_00 to transfers_15, one a slot
CREATE INDEX transfers_at ON transfers USING brin (at);
CREATE UNIQUE INDEX transfers_business_key ON transfers USING btree (code, business_key, state, slot);
CREATE INDEX transfers_in ON transfers USING btree (credit_account, id) WHERE ((state = 'POSTED'::text) AND (credit_account ~~ 'wallet:%'::text));
CREATE INDEX transfers_out ON transfers USING btree (debit_account, id) WHERE ((state = 'POSTED'::text) AND (debit_account ~~ 'wallet:%'::text));
CREATE UNIQUE INDEX transfers_pending ON transfers USING btree (pending_id, slot) WHERE (pending_id IS NOT NULL);
CREATE TRIGGER transfers_append_only BEFORE DELETE OR UPDATE ON transfers FOR EACH ROW EXECUTE FUNCTION refuse_change();

create table users (
  slot smallint not null,
  id bigint not null,
  username text not null,
  password_hash text not null,
  roles text[] not null,
  merchant_id bigint,
  created_at timestamp with time zone default now() not null,
  constraint users_pkey PRIMARY KEY (slot, id)
) partition by LIST (slot);
-- partitions: users_00 to users_15, one a slot
CREATE UNIQUE INDEX users_username ON users USING btree (slot, username);

create publication events for table events with (publish = 'insert', publish_via_partition_root = t);
