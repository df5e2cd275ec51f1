-- Settlements that failed are listed for a person. A column of its own, for the reason in 000004.
alter table settlements add column failed boolean not null generated always as (state = 'FAILED') stored;
create index settlements_failed on settlements (id) where failed;
