-- The money inside a city: refunds by unit, reversals, settlement, payouts, clawbacks.

-- ---------------------------------------------------------------------------------------------------------------------------
-- A payable may fall below its floor through a clawback, and through nothing else. `overdrawn` is what clawbacks took that was not there: they
-- alone raise it, and every booking lowers it to what is still missing (`ledger/book-payables`). So the floor is exact: a payout from an account
-- that a clawback has emptied is refused by the database as well, and once the account is above zero again nothing is left to draw on.
alter table accounts add column overdrawn bigint not null default 0 check (overdrawn >= 0);
alter table accounts drop constraint accounts_floor;
alter table accounts add constraint accounts_floor check (not floored or credits_posted - debits_posted - debits_pending >= -overdrawn);
alter table accounts add constraint accounts_overdrawn check (overdrawn = 0 or account like 'payable:%');

-- ---------------------------------------------------------------------------------------------------------------------------
-- The refund that gives a unit back, or has.
alter table vouchers
  add column refund_id bigint,
  -- Still to be used, or used and not settled: what may lapse. It changes once in a life, so redeeming stays a heap-only update (000004).
  add column open boolean not null generated always as (state in ('ISSUED', 'REDEEMED')) stored;
create index vouchers_lapsing on vouchers (valid_until) where open;

alter table refunds
  -- True: of units that were used and settled: its merchant approves it, or `approve_by` passes, and the merchant's payable pays.
  add column used boolean not null default false,
  -- What the consumer said of it.
  add column note text,
  -- Part of the amount that comes back from the commission.
  add column commission bigint not null default 0 check (commission between 0 and amount),
  add column approve_by timestamptz,
  add column approved_at timestamptz,
  add column unfinished boolean not null generated always as (state in ('REQUESTED', 'PROCESSING')) stored,
  add constraint refunds_approval check (used = (approve_by is not null) and (used or (commission = 0 and approved_at is null)));
drop index refunds_unfinished;
create index refunds_unfinished on refunds (next_attempt_at) where unfinished;

-- What happened at the bar, append-only: a redemption, and its reversal as a row of its own.
create table redemptions (
  slot smallint not null,
  id bigint not null,
  voucher_id bigint not null,
  order_id bigint not null,
  merchant_id bigint not null,
  kind text not null check (kind in ('REDEEM', 'REVERSE')),
  -- Who at the bar did it.
  actor bigint,
  at timestamptz not null,
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('redemptions');
create trigger redemptions_append_only before update or delete on redemptions for each row execute function refuse_change();
insert into redemptions (slot, id, voucher_id, order_id, merchant_id, kind, actor, at)
select v.slot, (mint_ids((select city from keyspace), v.slot, 1))[1], v.id, v.order_id, v.merchant_id, 'REDEEM',
       (select e.actor from events e where e.slot = v.slot and e.type = 'voucher.redeemed' and e.subject = v.id limit 1), v.redeemed_at
  from vouchers v where v.state = 'REDEEMED';

-- ---------------------------------------------------------------------------------------------------------------------------
-- Settlement: one a redeemed voucher, written with its redemption and due when nobody can reverse it any more.
create table settlements (
  slot smallint not null,
  id bigint not null,
  voucher_id bigint not null,
  order_id bigint not null,
  merchant_id bigint not null,
  gross bigint not null check (gross > 0),
  commission bigint not null check (commission between 0 and gross),
  state text not null check (state in ('INIT', 'PROCESSING', 'SUCCESS', 'FAILED')),
  -- The fence: each attempt has the next number, and whoever comes with an older one does nothing.
  attempt integer not null default 0,
  -- PROCESSING: until then it is somebody's; after that he is taken for dead.
  lease_until timestamptz,
  reason text,
  created_at timestamptz not null,
  due_at timestamptz not null,
  ended_at timestamptz,
  unfinished boolean not null generated always as (state in ('INIT', 'PROCESSING')) stored,
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('settlements', 'with (fillfactor = 70)');
create unique index settlements_voucher on settlements (voucher_id, slot);
create index settlements_due on settlements (due_at) where unfinished;
create index settlements_merchant on settlements (merchant_id, id);
insert into settlements (slot, id, voucher_id, order_id, merchant_id, gross, commission, state, created_at, due_at)
select v.slot, (mint_ids((select city from keyspace), v.slot, 1))[1], v.id, v.order_id, v.merchant_id, v.amount,
       (v.amount * o.commission_bps + 5000) / 10000, 'INIT', v.redeemed_at, v.redeemed_at + interval '2 hours'
  from vouchers v join orders o on o.slot = v.slot and o.id = v.order_id where v.state = 'REDEEMED';

-- ---------------------------------------------------------------------------------------------------------------------------
-- Payouts: record → call → confirm.
create table payouts (
  slot smallint not null,
  id bigint not null,
  merchant_id bigint not null,
  channel text not null,
  amount bigint not null check (amount > 0),
  state text not null check (state in ('REQUESTED', 'PROCESSING', 'UNKNOWN', 'SUCCEEDED', 'FAILED', 'RETURNED')),
  -- Why it failed or came back, as the channel says.
  reason text,
  requested_by bigint not null,
  attempts integer not null default 0,
  last_error text,
  next_attempt_at timestamptz not null,
  created_at timestamptz not null,
  ended_at timestamptz,
  unfinished boolean not null generated always as (state in ('REQUESTED', 'PROCESSING', 'UNKNOWN')) stored,
  primary key (slot, id)
) partition by list (slot);
select partition_by_slot('payouts', 'with (fillfactor = 70)');
create index payouts_unfinished on payouts (next_attempt_at) where unfinished;

-- What has left for a merchant's bank and not come back: a running total, so that a balance need not read all payouts there ever were.
alter table merchants add column paid_out bigint not null default 0 check (paid_out >= 0);
