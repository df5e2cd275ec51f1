-- A city's keyspace: merchants and everything they own. A shard is (city, slot); every big table is partitioned by slot.

-- ---------------------------------------------------------------------------------------------------------------------------
-- Merchants and what they offer.
create table merchants (
  slot smallint not null,
  id bigint not null,
  name text not null,
  commission_bps integer not null check (commission_bps between 0 and 10000),
  owner_id bigint not null,
  owner_username text not null,
  -- OPENING: its owner (in the user keyspace) does not work for it yet, nobody sees it; it becomes OPEN, or the row goes.
  state text not null default 'OPEN' check (state in ('OPENING', 'OPEN')),
  created_at timestamptz not null default now(),
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('merchants');
create index merchants_opening on merchants (created_at) where state = 'OPENING';

create table deals (
  slot smallint not null,
  id bigint not null,
  merchant_id bigint not null,
  title text not null,
  description text not null,
  price bigint not null check (price > 0),
  -- [{ size, price }], sizes ascending, prices never rising.
  tiers json not null,
  per_user_limit integer check (per_user_limit > 0),
  group_ttl_minutes integer not null check (group_ttl_minutes > 0),
  -- A failed share of paid seats from which the merchant lets a group be filled up, in basis points; null: never.
  auto_fill_bps integer check (auto_fill_bps between 1 and 10000),
  sale_starts_at timestamptz,
  sale_ends_at timestamptz,
  voucher_valid_days integer not null check (voucher_valid_days > 0),
  refund_anytime boolean not null,
  refund_expired boolean not null,
  state text not null check (state in ('DRAFT', 'ON_SALE', 'PAUSED', 'CLOSED')),
  -- Words cut by Intl.Segmenter (PostgreSQL's parsers do not cut Chinese): title and merchant weigh more than the description.
  words tsvector not null,
  created_at timestamptz not null default now(),
  published_at timestamptz,
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('deals');
create index deals_merchant on deals (slot, merchant_id, id);
create index deals_words on deals using gin (words);
create index deals_on_sale_price on deals (price, id) where state = 'ON_SALE';
create index deals_on_sale_newest on deals (id) where state = 'ON_SALE';
-- Deals without an end come last, so the end of an endless sale is `infinity` here.
create index deals_on_sale_ending on deals (coalesce(sale_ends_at, 'infinity'), id) where state = 'ON_SALE';

-- total = available + held + sold, in one or more buckets a deal: two nodes that drain one shard at once take different ones.
-- Half-empty pages and no index on what changes keep every update a HOT one.
create table stock (
  slot smallint not null,
  deal_id bigint not null,
  bucket smallint not null,
  total integer not null check (total >= 0),
  held integer not null default 0 check (held >= 0),
  sold integer not null default 0 check (sold >= 0),
  -- Raised with every change: what the stock gate was told last is told from what it was told late.
  version bigint not null default 0,
  primary key (slot, deal_id, bucket),
  constraint stock_not_oversold check (held + sold <= total)
) partition by list (slot);
select partition_by_slot('stock', 'with (fillfactor = 50)');

-- The second path to every stock figure: one row a drain and bucket.
create table stock_flows (
  slot smallint not null,
  id bigint generated always as identity,
  deal_id bigint not null,
  bucket smallint not null,
  total integer not null,
  held integer not null,
  sold integer not null,
  cause text not null,
  at timestamptz not null default now(),
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('stock_flows');
create index stock_flows_deal on stock_flows (slot, deal_id);

-- What one user has used up in one scope: units of a deal (scope = deal id), unpaid orders with a merchant (scope = merchant id).
create table quotas (
  slot smallint not null,
  scope bigint not null,
  user_id bigint not null,
  used integer not null check (used >= 0),
  -- Null: counted, not limited.
  cap integer,
  primary key (slot, scope, user_id),
  constraint quotas_within_cap check (cap is null or used <= cap)
) partition by list (slot);
select partition_by_slot('quotas', 'with (fillfactor = 70)');

-- ---------------------------------------------------------------------------------------------------------------------------
-- Groups and orders.
create table groups (
  slot smallint not null,
  id bigint not null,
  deal_id bigint not null,
  merchant_id bigint not null,
  size integer not null check (size between 2 and 100),
  unit_price bigint not null check (unit_price > 0),
  state text not null check (state in ('PENDING', 'OPEN', 'CLOSING', 'FORMED', 'FAILED')),
  held integer not null default 0 check (held >= 0),
  taken integer not null default 0 check (taken >= 0),
  -- Seats filled by the merchant's auto-fill: no money, no voucher, in no sales figure.
  filled integer not null default 0 check (filled >= 0),
  leader_id bigint not null,
  leader_name text not null,
  ttl_minutes integer not null,
  sale_ends_at timestamptz,
  auto_fill_bps integer,
  -- Null until the opener's payment opens the group.
  deadline timestamptz,
  created_at timestamptz not null default now(),
  ended_at timestamptz,
  primary key (slot, id),
  constraint groups_not_overfull check (held + taken + filled <= size)
) partition by list (slot);
select partition_by_slot('groups', 'with (fillfactor = 70)');
create index groups_of_deal on groups (slot, deal_id, id) where state = 'OPEN';
create index groups_due on groups (deadline) where state in ('OPEN', 'CLOSING');

create table seats (
  slot smallint not null,
  group_id bigint not null,
  order_id bigint not null,
  user_id bigint not null,
  username text not null,
  state text not null check (state in ('HELD', 'TAKEN', 'RELEASED', 'REFUNDED')),
  primary key (slot, group_id, order_id)
) partition by list (slot);
select partition_by_slot('seats', 'with (fillfactor = 80)');
create unique index seats_one_a_user on seats (slot, group_id, user_id) where state in ('HELD', 'TAKEN');

create table orders (
  slot smallint not null,
  id bigint not null,
  consumer_id bigint not null,
  merchant_id bigint not null,
  deal_id bigint not null,
  group_id bigint,
  bucket smallint not null,
  quantity integer not null check (quantity > 0),
  unit_price bigint not null check (unit_price > 0),
  discount bigint not null check (discount >= 0),
  amount bigint not null check (amount > 0),
  -- The regional policy it was made under, and the discount that policy gave. Short types: before the first ANALYZE a row's width is guessed
  -- from them, from it the rows of the table, and from those whether a page of a merchant's orders is read by its index or sorted.
  region varchar(12) not null default 'default',
  region_version varchar(14) not null default '1.0.0',
  discount_bps smallint not null default 0 check (discount_bps between 0 and 9000),
  commission_bps integer not null,
  voucher_valid_days integer not null,
  state text not null check (state in ('PENDING_PAYMENT', 'PAID', 'CONFIRMED', 'COMPLETED', 'CANCELLED', 'EXPIRED', 'REFUNDED')),
  idem_key text not null,
  -- The request, hashed: the same key with another body is another request.
  body_hash bytea not null,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  paid_at timestamptz,
  ended_at timestamptz,
  primary key (slot, id),
  check (amount = unit_price * quantity - discount)
) partition by list (slot);
-- Room for the updates an order's life brings: pending, paid, confirmed, ended.
select partition_by_slot('orders', 'with (fillfactor = 80)');
create unique index orders_idem_key on orders (slot, consumer_id, idem_key);
create index orders_unpaid on orders (expires_at) where state = 'PENDING_PAYMENT';
create index orders_merchant on orders (slot, merchant_id, id);

-- ---------------------------------------------------------------------------------------------------------------------------
-- Paying: the durable row of a wallet TCC (state TRYING → …) is the payment itself.
create table payments (
  slot smallint not null,
  id bigint not null,
  order_id bigint not null,
  consumer_id bigint not null,
  merchant_id bigint not null,
  channel text not null,
  amount bigint not null check (amount > 0),
  state text not null check (state in ('TRYING', 'CONFIRMING', 'CONFIRMED', 'CANCELLING', 'CANCELLED')),
  -- Why it was cancelled: the error code its buyer was told.
  reason text,
  attempts integer not null default 0,
  next_attempt_at timestamptz not null,
  created_at timestamptz not null,
  decided_at timestamptz,
  ended_at timestamptz,
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('payments', 'with (fillfactor = 70)');
-- One live payment an order; a second attempt after a cancelled one is a new row.
create unique index payments_one_live on payments (slot, order_id) where state <> 'CANCELLED' and state <> 'CANCELLING';
create index payments_unfinished on payments (next_attempt_at) where state in ('TRYING', 'CONFIRMING', 'CANCELLING');

-- Refunds to the wallet are a TCC too; PROCESSING with `decided_at` set is past the decision: only forward from there.
create table refunds (
  slot smallint not null,
  id bigint not null,
  order_id bigint not null,
  payment_id bigint not null,
  consumer_id bigint not null,
  merchant_id bigint not null,
  quantity integer not null check (quantity > 0),
  amount bigint not null check (amount > 0),
  reason text not null,
  state text not null check (state in ('REQUESTED', 'PROCESSING', 'SUCCEEDED', 'ABNORMAL')),
  attempts integer not null default 0,
  last_error text,
  next_attempt_at timestamptz not null,
  created_at timestamptz not null,
  decided_at timestamptz,
  ended_at timestamptz,
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('refunds', 'with (fillfactor = 70)');
create index refunds_order on refunds (slot, order_id);
create index refunds_unfinished on refunds (next_attempt_at) where state in ('REQUESTED', 'PROCESSING');

create table vouchers (
  slot smallint not null,
  id bigint not null,
  order_id bigint not null,
  deal_id bigint not null,
  merchant_id bigint not null,
  consumer_id bigint not null,
  unit smallint not null,
  -- This unit's part of what was paid: largest remainder, the parts sum to the order's amount.
  amount bigint not null check (amount > 0),
  -- 16 digits: 14 drawn at random, then the slot, so that a code is unique in its city although a city may be several databases.
  code text not null check (code ~ '^[0-9]{16}$'),
  state text not null check (state in ('ISSUED', 'REDEEMED', 'SETTLED', 'REFUNDING', 'REFUNDED', 'EXPIRED')),
  issued_at timestamptz not null,
  valid_until timestamptz not null,
  redeemed_at timestamptz,
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('vouchers', 'with (fillfactor = 80)');
create unique index vouchers_code on vouchers (slot, code);
create unique index vouchers_order on vouchers (slot, order_id, unit);
