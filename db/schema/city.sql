-- A city keyspace after 000014-old-requests.sql. For reading: the migrations make it, tests/schema.test.ts compares it.

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
  overdrawn bigint default 0 not null,
  constraint accounts_pkey PRIMARY KEY (slot, account),
  constraint accounts_credits_pending_check CHECK ((credits_pending >= 0)),
  constraint accounts_credits_posted_check CHECK ((credits_posted >= 0)),
  constraint accounts_debits_pending_check CHECK ((debits_pending >= 0)),
  constraint accounts_debits_posted_check CHECK ((debits_posted >= 0)),
  constraint accounts_floor CHECK (((NOT floored) OR (((credits_posted - debits_posted) - debits_pending) >= (- overdrawn)))),
  constraint accounts_overdrawn CHECK (((overdrawn = 0) OR (account ~~ 'payable:%'::text))),
  constraint accounts_overdrawn_check CHECK ((overdrawn >= 0))
) partition by LIST (slot);
-- partitions: accounts_00 to accounts_15, one a slot with (fillfactor=50)

create table chain_heads (
  slot smallint not null,
  seq bigint not null,
  hash bytea not null,
  constraint chain_heads_pkey PRIMARY KEY (slot)
);

create table channel_callbacks (
  slot smallint not null,
  id bigint not null,
  channel text not null,
  callback_id text not null,
  about text not null,
  subject bigint,
  body text not null,
  news json,
  state text not null,
  error text,
  attempts integer default 0 not null,
  next_attempt_at timestamp with time zone not null,
  received_at timestamp with time zone not null,
  done_at timestamp with time zone,
  unfinished boolean generated always as (state = 'KEPT'::text) stored not null,
  constraint channel_callbacks_pkey PRIMARY KEY (slot, id),
  constraint channel_callbacks_about_check CHECK ((about = ANY (ARRAY['charge'::text, 'refund'::text, 'payout'::text, 'unreadable'::text]))),
  constraint channel_callbacks_check CHECK ((((about = 'unreadable'::text) = (subject IS NULL)) AND ((news IS NULL) = (subject IS NULL)))),
  constraint channel_callbacks_state_check CHECK ((state = ANY (ARRAY['KEPT'::text, 'DONE'::text, 'FAILED'::text, 'RESOLVED'::text])))
) partition by LIST (slot);
-- partitions: channel_callbacks_00 to channel_callbacks_15, one a slot with (fillfactor=80)
CREATE INDEX channel_callbacks_failed ON channel_callbacks USING btree (id) WHERE (state = 'FAILED'::text);
CREATE UNIQUE INDEX channel_callbacks_once ON channel_callbacks USING btree (slot, channel, callback_id);
CREATE INDEX channel_callbacks_subject ON channel_callbacks USING btree (subject, slot);
CREATE INDEX channel_callbacks_unfinished ON channel_callbacks USING btree (next_attempt_at) WHERE unfinished;

create table deals (
  slot smallint not null,
  id bigint not null,
  merchant_id bigint not null,
  title text not null,
  description text not null,
  price bigint not null,
  tiers json not null,
  per_user_limit integer,
  group_ttl_minutes integer not null,
  auto_fill_bps integer,
  sale_starts_at timestamp with time zone,
  sale_ends_at timestamp with time zone,
  voucher_valid_days integer not null,
  refund_anytime boolean not null,
  refund_expired boolean not null,
  state text not null,
  words tsvector not null,
  created_at timestamp with time zone default now() not null,
  published_at timestamp with time zone,
  constraint deals_pkey PRIMARY KEY (slot, id),
  constraint deals_auto_fill_bps_check CHECK (((auto_fill_bps >= 1) AND (auto_fill_bps <= 10000))),
  constraint deals_group_ttl_minutes_check CHECK ((group_ttl_minutes > 0)),
  constraint deals_per_user_limit_check CHECK ((per_user_limit > 0)),
  constraint deals_price_check CHECK ((price > 0)),
  constraint deals_state_check CHECK ((state = ANY (ARRAY['DRAFT'::text, 'ON_SALE'::text, 'PAUSED'::text, 'CLOSED'::text]))),
  constraint deals_voucher_valid_days_check CHECK ((voucher_valid_days > 0))
) partition by LIST (slot);
-- partitions: deals_00 to deals_15, one a slot
CREATE INDEX deals_merchant ON deals USING btree (slot, merchant_id, id);
CREATE INDEX deals_on_sale_ending ON deals USING btree (COALESCE(sale_ends_at, 'infinity'::timestamp with time zone), id) WHERE (state = 'ON_SALE'::text);
CREATE INDEX deals_on_sale_newest ON deals USING btree (id) WHERE (state = 'ON_SALE'::text);
CREATE INDEX deals_on_sale_price ON deals USING btree (price, id) WHERE (state = 'ON_SALE'::text);
CREATE INDEX deals_words ON deals USING gin (words);

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

create table groups (
  slot smallint not null,
  id bigint not null,
  deal_id bigint not null,
  merchant_id bigint not null,
  size integer not null,
  unit_price bigint not null,
  state text not null,
  held integer default 0 not null,
  taken integer default 0 not null,
  filled integer default 0 not null,
  leader_id bigint not null,
  leader_name text not null,
  ttl_minutes integer not null,
  sale_ends_at timestamp with time zone,
  auto_fill_bps integer,
  deadline timestamp with time zone,
  created_at timestamp with time zone default now() not null,
  ended_at timestamp with time zone,
  constraint groups_pkey PRIMARY KEY (slot, id),
  constraint groups_filled_check CHECK ((filled >= 0)),
  constraint groups_held_check CHECK ((held >= 0)),
  constraint groups_not_overfull CHECK ((((held + taken) + filled) <= size)),
  constraint groups_size_check CHECK (((size >= 2) AND (size <= 100))),
  constraint groups_state_check CHECK ((state = ANY (ARRAY['PENDING'::text, 'OPEN'::text, 'CLOSING'::text, 'FORMED'::text, 'FAILED'::text]))),
  constraint groups_taken_check CHECK ((taken >= 0)),
  constraint groups_unit_price_check CHECK ((unit_price > 0))
) partition by LIST (slot);
-- partitions: groups_00 to groups_15, one a slot with (fillfactor=50)
CREATE INDEX groups_due ON groups USING btree (deadline) WHERE (state = ANY (ARRAY['OPEN'::text, 'CLOSING'::text]));
CREATE INDEX groups_of_deal ON groups USING btree (slot, deal_id, id) WHERE (state = 'OPEN'::text);

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

create table merchants (
  slot smallint not null,
  id bigint not null,
  name text not null,
  commission_bps integer not null,
  owner_id bigint not null,
  owner_username text not null,
  state text default 'OPEN'::text not null,
  created_at timestamp with time zone default now() not null,
  paid_out bigint default 0 not null,
  constraint merchants_pkey PRIMARY KEY (slot, id),
  constraint merchants_commission_bps_check CHECK (((commission_bps >= 0) AND (commission_bps <= 10000))),
  constraint merchants_paid_out_check CHECK ((paid_out >= 0)),
  constraint merchants_state_check CHECK ((state = ANY (ARRAY['OPENING'::text, 'OPEN'::text])))
) partition by LIST (slot);
-- partitions: merchants_00 to merchants_15, one a slot
CREATE INDEX merchants_opening ON merchants USING btree (created_at) WHERE (state = 'OPENING'::text);

create table migrations (
  number integer not null,
  name text not null,
  checksum text not null,
  at timestamp with time zone default now() not null,
  constraint migrations_pkey PRIMARY KEY (number)
);

create table orders (
  slot smallint not null,
  id bigint not null,
  consumer_id bigint not null,
  merchant_id bigint not null,
  deal_id bigint not null,
  group_id bigint,
  bucket smallint not null,
  quantity integer not null,
  unit_price bigint not null,
  discount bigint not null,
  amount bigint not null,
  commission_bps integer not null,
  voucher_valid_days integer not null,
  state text not null,
  idem_key text not null,
  body_hash bytea not null,
  created_at timestamp with time zone not null,
  expires_at timestamp with time zone not null,
  paid_at timestamp with time zone,
  ended_at timestamp with time zone,
  region character varying(12) default 'default'::character varying not null,
  region_version character varying(14) default '1.0.0'::character varying not null,
  discount_bps smallint default 0 not null,
  unpaid boolean generated always as (state = 'PENDING_PAYMENT'::text) stored not null,
  constraint orders_pkey PRIMARY KEY (slot, id),
  constraint orders_amount_check CHECK ((amount > 0)),
  constraint orders_check CHECK ((amount = ((unit_price * quantity) - discount))),
  constraint orders_discount_bps_check CHECK (((discount_bps >= 0) AND (discount_bps <= 9000))),
  constraint orders_discount_check CHECK ((discount >= 0)),
  constraint orders_quantity_check CHECK ((quantity > 0)),
  constraint orders_state_check CHECK ((state = ANY (ARRAY['PENDING_PAYMENT'::text, 'PAID'::text, 'CONFIRMED'::text, 'COMPLETED'::text, 'CANCELLED'::text, 'EXPIRED'::text, 'REFUNDED'::text]))),
  constraint orders_unit_price_check CHECK ((unit_price > 0))
) partition by LIST (slot);
-- partitions: orders_00 to orders_15, one a slot with (fillfactor=50)
CREATE UNIQUE INDEX orders_idem_key ON orders USING btree (slot, consumer_id, idem_key);
CREATE INDEX orders_merchant ON orders USING btree (slot, merchant_id, id);
CREATE INDEX orders_unpaid ON orders USING btree (expires_at) WHERE unpaid;

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

create table payments (
  slot smallint not null,
  id bigint not null,
  order_id bigint not null,
  consumer_id bigint not null,
  merchant_id bigint not null,
  channel text not null,
  amount bigint not null,
  state text not null,
  reason text,
  attempts integer default 0 not null,
  next_attempt_at timestamp with time zone not null,
  created_at timestamp with time zone not null,
  decided_at timestamp with time zone,
  ended_at timestamp with time zone,
  channel_no text,
  pay_url text,
  expires_at timestamp with time zone,
  paid_amount bigint,
  paid_currency text,
  paid_at timestamp with time zone,
  surplus boolean default false not null,
  last_error text,
  live boolean generated always as ((state <> ALL (ARRAY['CANCELLING'::text, 'CANCELLED'::text, 'FAILED'::text])) AND (NOT surplus)) stored not null,
  unfinished boolean generated always as (state = ANY (ARRAY['TRYING'::text, 'CONFIRMING'::text, 'CANCELLING'::text, 'CREATED'::text, 'PROCESSING'::text, 'UNKNOWN'::text])) stored not null,
  differs boolean generated always as ((state = 'FAILED'::text) AND (paid_at IS NOT NULL)) stored not null,
  constraint payments_pkey PRIMARY KEY (slot, id),
  constraint payments_amount_check CHECK ((amount > 0)),
  constraint payments_paid CHECK (((channel = 'wallet'::text) OR (state <> 'CONFIRMED'::text) OR ((paid_amount = amount) AND (paid_currency = 'CNY'::text)))),
  constraint payments_paid_amount_check CHECK ((paid_amount >= 0)),
  constraint payments_state_check CHECK (((state = 'CONFIRMED'::text) OR ((channel = 'wallet'::text) AND (state = ANY (ARRAY['TRYING'::text, 'CONFIRMING'::text, 'CANCELLING'::text, 'CANCELLED'::text]))) OR ((channel <> 'wallet'::text) AND (state = ANY (ARRAY['CREATED'::text, 'PROCESSING'::text, 'UNKNOWN'::text, 'FAILED'::text]))))),
  constraint payments_surplus CHECK (((NOT surplus) OR ((channel <> 'wallet'::text) AND (state = 'CONFIRMED'::text))))
) partition by LIST (slot);
-- partitions: payments_00 to payments_15, one a slot with (fillfactor=50)
CREATE INDEX payments_channel_no ON payments USING btree (channel_no, slot) WHERE (channel_no IS NOT NULL);
CREATE INDEX payments_differing ON payments USING btree (id) WHERE differs;
CREATE INDEX payments_given_up ON payments USING btree (slot, order_id) WHERE (NOT live);
CREATE UNIQUE INDEX payments_one_live ON payments USING btree (slot, order_id) WHERE live;
CREATE INDEX payments_unfinished ON payments USING btree (next_attempt_at) WHERE unfinished;

create table payouts (
  slot smallint not null,
  id bigint not null,
  merchant_id bigint not null,
  channel text not null,
  amount bigint not null,
  state text not null,
  reason text,
  requested_by bigint not null,
  attempts integer default 0 not null,
  last_error text,
  next_attempt_at timestamp with time zone not null,
  created_at timestamp with time zone not null,
  ended_at timestamp with time zone,
  unfinished boolean generated always as (state = ANY (ARRAY['REQUESTED'::text, 'PROCESSING'::text, 'UNKNOWN'::text])) stored not null,
  channel_no text,
  watched boolean default false not null,
  constraint payouts_pkey PRIMARY KEY (slot, id),
  constraint payouts_amount_check CHECK ((amount > 0)),
  constraint payouts_state_check CHECK ((state = ANY (ARRAY['REQUESTED'::text, 'PROCESSING'::text, 'UNKNOWN'::text, 'SUCCEEDED'::text, 'FAILED'::text, 'RETURNED'::text])))
) partition by LIST (slot);
-- partitions: payouts_00 to payouts_15, one a slot with (fillfactor=70)
CREATE INDEX payouts_channel_no ON payouts USING btree (channel_no, slot) WHERE (channel_no IS NOT NULL);
CREATE INDEX payouts_due ON payouts USING btree (next_attempt_at) WHERE (unfinished OR watched);

create table quotas (
  slot smallint not null,
  scope bigint not null,
  user_id bigint not null,
  used integer not null,
  cap integer,
  constraint quotas_pkey PRIMARY KEY (slot, scope, user_id),
  constraint quotas_used_check CHECK ((used >= 0)),
  constraint quotas_within_cap CHECK (((cap IS NULL) OR (used <= cap)))
) partition by LIST (slot);
-- partitions: quotas_00 to quotas_15, one a slot with (fillfactor=50)

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

create table redemptions (
  slot smallint not null,
  id bigint not null,
  voucher_id bigint not null,
  order_id bigint not null,
  merchant_id bigint not null,
  kind text not null,
  actor bigint,
  at timestamp with time zone not null,
  constraint redemptions_pkey PRIMARY KEY (slot, id),
  constraint redemptions_kind_check CHECK ((kind = ANY (ARRAY['REDEEM'::text, 'REVERSE'::text])))
) partition by LIST (slot);
-- partitions: redemptions_00 to redemptions_15, one a slot
CREATE TRIGGER redemptions_append_only BEFORE DELETE OR UPDATE ON redemptions FOR EACH ROW EXECUTE FUNCTION refuse_change();

create table refunds (
  slot smallint not null,
  id bigint not null,
  order_id bigint not null,
  payment_id bigint not null,
  consumer_id bigint not null,
  merchant_id bigint not null,
  quantity integer not null,
  amount bigint not null,
  reason text not null,
  state text not null,
  attempts integer default 0 not null,
  last_error text,
  next_attempt_at timestamp with time zone not null,
  created_at timestamp with time zone not null,
  decided_at timestamp with time zone,
  ended_at timestamp with time zone,
  used boolean default false not null,
  note text,
  commission bigint default 0 not null,
  approve_by timestamp with time zone,
  approved_at timestamp with time zone,
  unfinished boolean generated always as (state = ANY (ARRAY['REQUESTED'::text, 'PROCESSING'::text])) stored not null,
  channel text default 'wallet'::text not null,
  channel_no text,
  surplus boolean default false not null,
  abnormal boolean generated always as (state = 'ABNORMAL'::text) stored not null,
  constraint refunds_pkey PRIMARY KEY (slot, id),
  constraint refunds_amount_check CHECK ((amount > 0)),
  constraint refunds_approval CHECK (((used = (approve_by IS NOT NULL)) AND (used OR ((commission = 0) AND (approved_at IS NULL))))),
  constraint refunds_check CHECK (((commission >= 0) AND (commission <= amount))),
  constraint refunds_quantity_check CHECK ((quantity > 0)),
  constraint refunds_state_check CHECK ((state = ANY (ARRAY['REQUESTED'::text, 'PROCESSING'::text, 'SUCCEEDED'::text, 'ABNORMAL'::text])))
) partition by LIST (slot);
-- partitions: refunds_00 to refunds_15, one a slot with (fillfactor=70)
CREATE INDEX refunds_abnormal ON refunds USING btree (id) WHERE abnormal;
CREATE INDEX refunds_channel_no ON refunds USING btree (channel_no, slot) WHERE (channel_no IS NOT NULL);
CREATE INDEX refunds_order ON refunds USING btree (slot, order_id);
CREATE INDEX refunds_unfinished ON refunds USING btree (next_attempt_at) WHERE unfinished;

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

create table seats (
  slot smallint not null,
  group_id bigint not null,
  order_id bigint not null,
  user_id bigint not null,
  username text not null,
  state text not null,
  live boolean generated always as (state = ANY (ARRAY['HELD'::text, 'TAKEN'::text])) stored not null,
  constraint seats_pkey PRIMARY KEY (slot, group_id, order_id),
  constraint seats_state_check CHECK ((state = ANY (ARRAY['HELD'::text, 'TAKEN'::text, 'RELEASED'::text, 'REFUNDED'::text])))
) partition by LIST (slot);
-- partitions: seats_00 to seats_15, one a slot with (fillfactor=50)
CREATE UNIQUE INDEX seats_one_a_user ON seats USING btree (slot, group_id, user_id) WHERE live;

create table settlements (
  slot smallint not null,
  id bigint not null,
  voucher_id bigint not null,
  order_id bigint not null,
  merchant_id bigint not null,
  gross bigint not null,
  commission bigint not null,
  state text not null,
  attempt integer default 0 not null,
  lease_until timestamp with time zone,
  reason text,
  created_at timestamp with time zone not null,
  due_at timestamp with time zone not null,
  ended_at timestamp with time zone,
  unfinished boolean generated always as (state = ANY (ARRAY['INIT'::text, 'PROCESSING'::text])) stored not null,
  failed boolean generated always as (state = 'FAILED'::text) stored not null,
  constraint settlements_pkey PRIMARY KEY (slot, id),
  constraint settlements_check CHECK (((commission >= 0) AND (commission <= gross))),
  constraint settlements_gross_check CHECK ((gross > 0)),
  constraint settlements_state_check CHECK ((state = ANY (ARRAY['INIT'::text, 'PROCESSING'::text, 'SUCCESS'::text, 'FAILED'::text])))
) partition by LIST (slot);
-- partitions: settlements_00 to settlements_15, one a slot with (fillfactor=70)
CREATE INDEX settlements_due ON settlements USING btree (due_at) WHERE unfinished;
CREATE INDEX settlements_failed ON settlements USING btree (id) WHERE failed;
CREATE INDEX settlements_merchant ON settlements USING btree (merchant_id, id);
CREATE UNIQUE INDEX settlements_voucher ON settlements USING btree (voucher_id, slot);

create table stock (
  slot smallint not null,
  deal_id bigint not null,
  bucket smallint not null,
  total integer not null,
  held integer default 0 not null,
  sold integer default 0 not null,
  version bigint default 0 not null,
  constraint stock_pkey PRIMARY KEY (slot, deal_id, bucket),
  constraint stock_held_check CHECK ((held >= 0)),
  constraint stock_not_oversold CHECK (((held + sold) <= total)),
  constraint stock_sold_check CHECK ((sold >= 0)),
  constraint stock_total_check CHECK ((total >= 0))
) partition by LIST (slot);
-- partitions: stock_00 to stock_15, one a slot with (fillfactor=50)

create table stock_flows (
  slot smallint not null,
  id bigint generated always as identity not null,
  deal_id bigint not null,
  bucket smallint not null,
  total integer not null,
  held integer not null,
  sold integer not null,
  cause text not null,
  at timestamp with time zone default now() not null,
  constraint stock_flows_pkey PRIMARY KEY (slot, id)
) partition by LIST (slot);
-- partitions: stock_flows_00 to stock_flows_15, one a slot
CREATE INDEX stock_flows_deal ON stock_flows USING btree (slot, deal_id);

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

create table vouchers (
  slot smallint not null,
  id bigint not null,
  order_id bigint not null,
  deal_id bigint not null,
  merchant_id bigint not null,
  consumer_id bigint not null,
  unit smallint not null,
  amount bigint not null,
  code text not null,
  state text not null,
  issued_at timestamp with time zone not null,
  valid_until timestamp with time zone not null,
  redeemed_at timestamp with time zone,
  refund_id bigint,
  open boolean generated always as (state = ANY (ARRAY['ISSUED'::text, 'REDEEMED'::text])) stored not null,
  constraint vouchers_pkey PRIMARY KEY (slot, id),
  constraint vouchers_amount_check CHECK ((amount > 0)),
  constraint vouchers_code_check CHECK ((code ~ '^[0-9]{16}$'::text)),
  constraint vouchers_state_check CHECK ((state = ANY (ARRAY['ISSUED'::text, 'REDEEMED'::text, 'SETTLED'::text, 'REFUNDING'::text, 'REFUNDED'::text, 'EXPIRED'::text])))
) partition by LIST (slot);
-- partitions: vouchers_00 to vouchers_15, one a slot with (fillfactor=80)
CREATE UNIQUE INDEX vouchers_code ON vouchers USING btree (slot, code);
CREATE INDEX vouchers_lapsing ON vouchers USING btree (valid_until) WHERE open;
CREATE UNIQUE INDEX vouchers_order ON vouchers USING btree (slot, order_id, unit);

create publication events for table events with (publish = 'insert', publish_via_partition_root = t);
