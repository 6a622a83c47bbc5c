#!/bin/sh
# A throw-away cluster: the administrator comes over the unix socket by peer, everybody else over TCP by scram.
set -eu
set -- /usr/lib/postgresql/*/bin # the container has one version
bin=$1
data=/var/lib/postgresql/data
printf '%s' "${POSTGRES_PASSWORD:?}" >/tmp/password
"$bin/initdb" --pgdata "$data" --username postgres --pwfile /tmp/password --encoding UTF8 --locale C.UTF-8 \
    --auth-local peer --auth-host scram-sha-256 --no-sync >/dev/null
rm /tmp/password
printf 'local all postgres peer\nhost all all all scram-sha-256\n' >"$data/pg_hba.conf"
# shellcheck disable=SC2086 # POSTGRES_OPTIONS are words: a bench asks for a durable server by them
exec "$bin/postgres" -D "$data" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 \
    -c shared_buffers=256MB -c max_connections=200 -c log_statement=all ${POSTGRES_OPTIONS-}
