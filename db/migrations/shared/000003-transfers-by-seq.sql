-- A transfer is written four times in the life of an order, and nobody looks one up by its id: its place in the slot's chain is its key.
-- One index entry less for each; `id` stays the database's own count (mint_ids), so it cannot come twice.
alter table transfers drop constraint transfers_pkey;
alter table transfers add primary key (seq, slot);
drop index transfers_seq;
