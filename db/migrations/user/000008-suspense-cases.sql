-- Alike in both kinds of keyspace, and twice, for the reason in 000004.
-- What people do about money in suspense: whose it is to look into, and, once and for good, what was decided, by whom, when and why.
create table suspense_cases (
  slot smallint not null,
  -- The payment's of other money than was asked for, or the difference's with a channel's statement.
  id bigint not null,
  assignee text,
  outcome text check (outcome in ('GIVEN_BACK', 'WRITTEN_OFF')),
  note text,
  resolved_by bigint,
  resolved_at timestamptz,
  primary key (slot, id),
  constraint suspense_cases_resolved check (num_nulls(outcome, note, resolved_by, resolved_at) in (0, 4))
) partition by list (slot);
select partition_by_slot('suspense_cases');

-- RESOLVED: a person has decided what nothing explained.
alter table recon_differences
  drop constraint recon_differences_state_check,
  add constraint recon_differences_state_check check (state in ('OPEN', 'CLEARING', 'CLEARED', 'RESOLVED'));
-- What waits for a person; a STATUS is finished by its payment, a TIMING by a day that passes.
create index recon_differences_waiting on recon_differences (id) where state = 'OPEN' and class not in ('STATUS', 'TIMING');
