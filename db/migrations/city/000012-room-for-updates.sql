-- As in 000004: the index of unpaid orders asked for `state`, so every step of an order wrote all of its index entries anew. Whether it is unpaid
-- changes once.
drop index orders_unpaid;
alter table orders add column unpaid boolean not null generated always as (state = 'PENDING_PAYMENT') stored;
create index orders_unpaid on orders (expires_at) where unpaid;

-- A heap-only update needs room on its page. Rows that come by the hundred fill a page to its fillfactor and are then updated together: a third
-- of the seats and a quarter of the payments found room. Half a page is one version more of each.
do $$
declare
  name text;
begin
  foreach name in array array['orders', 'payments', 'seats', 'groups', 'quotas'] loop
    for slot in 0..15 loop
      execute format('alter table %I set (fillfactor = 50)', name || '_' || to_char(slot, 'FM00'));
    end loop;
  end loop;
end $$;
