-- As 000007, for the keys of requests.
create index requests_at on requests using brin (at);
