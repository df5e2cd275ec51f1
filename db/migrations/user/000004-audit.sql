-- Where in a table that only grows the transfers since some time begin: a few pages for millions of rows, and nothing to keep up but the newest range.
create index transfers_at on transfers using brin (at);
