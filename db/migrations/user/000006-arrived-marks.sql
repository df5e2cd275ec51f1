-- True where the slot has come from another database since, and what lies behind the mark may have been told to nobody there: whoever takes the
-- events from a stream reads the table from the mark first.
alter table relay_marks add column if not exists arrived boolean not null default false;
