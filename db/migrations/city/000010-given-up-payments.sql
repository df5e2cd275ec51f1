-- An order's earlier attempts, for who pays again and finds the wallet short: one of them may still hold the money. Nothing is added to a payment that
-- is confirmed: it never leaves `live`.
create index payments_given_up on payments (slot, order_id) where not live;
