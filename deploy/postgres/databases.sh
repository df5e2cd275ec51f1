#!/bin/sh
# Runs once, on an empty data directory: the platform's role, which owns its databases and may read the write-ahead log, and nothing more.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$PGPASSWORD_TUANBAR" --username "$POSTGRES_USER" --dbname postgres <<'SQL'
create role tuanbar login replication password :'password';
SQL
for database in $DATABASES; do
  psql --set ON_ERROR_STOP=1 --set database="$database" --username "$POSTGRES_USER" --dbname postgres <<'SQL'
create database :"database" owner tuanbar;
revoke connect, temporary on database :"database" from public;
SQL
done
