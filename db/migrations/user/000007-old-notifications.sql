-- The oldest of a slot, for those that go. Ids ascend, so it grows at its end.
create index notifications_oldest on notifications (slot, id);
