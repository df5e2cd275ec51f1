-- For those that go when they are old, and for the reason in the users' 000007: rows come in the order of their time.
create index requests_at on requests using brin (at);
