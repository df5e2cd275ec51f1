-- For those that go when they are old. Rows come in the order of their time, so a range of pages has a time: a kilobyte, where an index of rows was a
-- record of the log more for each of them.
create index notifications_at on notifications using brin (at);
