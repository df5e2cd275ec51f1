-- Money from outside: paying, refunding and paying out through external channels (docs/channels.md). `channel` is 'wallet' or a channel's name.

-- ---------------------------------------------------------------------------------------------------------------------------
-- Payments. By wallet TRYING → …, as before; by channel CREATED → PROCESSING | UNKNOWN → CONFIRMED | FAILED. Our id is the charge's number there.
-- CONFIRMED says that the money is here; a `surplus` one came too late or twice, paid for nothing, and goes back as a whole.
-- FAILED with `paid_at` set: the channel took another amount or currency than was asked for, and it lies in suspense.
drop index payments_one_live;
drop index payments_unfinished;
alter table payments drop column live, drop column unfinished, drop constraint payments_state_check;
alter table payments
  add column channel_no text,
  add column pay_url text,
  -- Its order's: after that the channel takes no money, and the charge is closed.
  add column expires_at timestamptz,
  -- What the channel says was really paid; the currency's own small unit.
  add column paid_amount bigint check (paid_amount >= 0),
  add column paid_currency text,
  add column paid_at timestamptz,
  add column surplus boolean not null default false,
  add column last_error text,
  add constraint payments_state_check check (state in ('CONFIRMED')
    or (channel = 'wallet' and state in ('TRYING', 'CONFIRMING', 'CANCELLING', 'CANCELLED'))
    or (channel <> 'wallet' and state in ('CREATED', 'PROCESSING', 'UNKNOWN', 'FAILED'))),
  add constraint payments_paid check (channel = 'wallet' or state <> 'CONFIRMED' or (paid_amount, paid_currency) = (amount, 'CNY')),
  add constraint payments_surplus check (not surplus or (channel <> 'wallet' and state = 'CONFIRMED'));
-- Columns of their own, for the reason in 000004.
alter table payments
  add column live boolean not null generated always as (state not in ('CANCELLING', 'CANCELLED', 'FAILED') and not surplus) stored,
  add column unfinished boolean not null
    generated always as (state in ('TRYING', 'CONFIRMING', 'CANCELLING', 'CREATED', 'PROCESSING', 'UNKNOWN')) stored,
  add column differs boolean not null generated always as (state = 'FAILED' and paid_at is not null) stored;
create index payments_differing on payments (id) where differs;
create unique index payments_one_live on payments (slot, order_id) where live;
create index payments_unfinished on payments (next_attempt_at) where unfinished;
create index payments_channel_no on payments (channel_no, slot) where channel_no is not null;

-- ---------------------------------------------------------------------------------------------------------------------------
-- Refunds go back the way their payment came. `surplus`: of a payment that paid for nothing, so it is of no unit of its order.
alter table refunds
  add column channel text not null default 'wallet',
  add column channel_no text,
  add column surplus boolean not null default false,
  add column abnormal boolean not null generated always as (state = 'ABNORMAL') stored;
create index refunds_abnormal on refunds (id) where abnormal;
create index refunds_channel_no on refunds (channel_no, slot) where channel_no is not null;

-- Payouts that arrived may still come back: they are asked about for some days.
alter table payouts
  add column channel_no text,
  add column watched boolean not null default false;
drop index payouts_unfinished;
create index payouts_due on payouts (next_attempt_at) where unfinished or watched;
create index payouts_channel_no on payouts (channel_no, slot) where channel_no is not null;

-- ---------------------------------------------------------------------------------------------------------------------------
-- What channels told us, once a callback id: genuine and fresh when it was kept. Worked off afterwards; its effect and DONE are one transaction.
create table channel_callbacks (
  slot smallint not null,
  id bigint not null,
  channel text not null,
  -- The channel's, the same on every repeat; of what cannot be read, a hash of its body.
  callback_id text not null,
  about text not null check (about in ('charge', 'refund', 'payout', 'unreadable')),
  -- Our number: the payment, refund or payout.
  subject bigint,
  -- The bytes that were signed, as text.
  body text not null,
  news json,
  -- FAILED: a person must look.
  state text not null check (state in ('KEPT', 'DONE', 'FAILED')),
  error text,
  attempts integer not null default 0,
  next_attempt_at timestamptz not null,
  received_at timestamptz not null,
  done_at timestamptz,
  unfinished boolean not null generated always as (state = 'KEPT') stored,
  primary key (slot, id),
  check ((about = 'unreadable') = (subject is null) and (news is null) = (subject is null))
) partition by list (slot);
select partition_by_slot('channel_callbacks', 'with (fillfactor = 80)');
create unique index channel_callbacks_once on channel_callbacks (slot, channel, callback_id);
create index channel_callbacks_unfinished on channel_callbacks (next_attempt_at) where unfinished;
create index channel_callbacks_failed on channel_callbacks (id) where state = 'FAILED';
create index channel_callbacks_subject on channel_callbacks (subject, slot);
