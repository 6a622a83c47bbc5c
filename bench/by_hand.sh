#!/bin/bash
# What a person would type on a fresh host to get the same as `site.yml`: the same packages, locks and units.
# Runs inside the container; the folder /src holds requirements/, flows/ and the application's SQL.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive PIP_CERT=/etc/ssl/certs/ca-certificates.crt UV_NATIVE_TLS=1
version=3.9.1
secret() { head -c 24 /dev/urandom | base64 | tr -d '/+='; }
server=$(secret) migrator=$(secret) app=$(secret) api=$(secret)

mkdir -p /etc/postgresql-common/createcluster.d
echo "initdb_options = '--data-checksums'" > /etc/postgresql-common/createcluster.d/checksums.conf
apt-get update -qq
apt-get install -qq --no-install-recommends postgresql python3-venv python3-psycopg2 > /dev/null
etc=$(echo /etc/postgresql/*/main)
cat > "$etc/conf.d/site.conf" <<'CONF'
max_connections = 102
shared_buffers = 512MB
effective_cache_size = 1GB
shared_preload_libraries = 'pg_stat_statements'
CONF
cat > "$etc/pg_hba.conf" <<'HBA'
local all postgres peer
host mltrading all 127.0.0.1/32 scram-sha-256
HBA
systemctl restart postgresql
until runuser -u postgres -- pg_isready -q; do sleep 0.2; done

runuser -u postgres -- psql -qX -v ON_ERROR_STOP=1 > /dev/null <<SQL
CREATE ROLE mltrading_owner NOLOGIN;
CREATE ROLE prefect_owner NOLOGIN;
CREATE ROLE mltrading_app LOGIN PASSWORD '$app';
CREATE ROLE prefect_server LOGIN PASSWORD '$server';
CREATE ROLE prefect_migrator LOGIN PASSWORD '$migrator' IN ROLE prefect_owner;
CREATE DATABASE mltrading OWNER mltrading_owner;
REVOKE ALL ON DATABASE mltrading FROM PUBLIC;
GRANT CONNECT ON DATABASE mltrading TO mltrading_app, prefect_server, prefect_migrator;
\c mltrading
ALTER SCHEMA public OWNER TO mltrading_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
CREATE SCHEMA extensions;
CREATE EXTENSION pg_trgm SCHEMA extensions;
CREATE EXTENSION pg_stat_statements SCHEMA extensions;
CREATE SCHEMA prefect AUTHORIZATION prefect_owner;
GRANT USAGE ON SCHEMA extensions TO prefect_owner, prefect_server;
GRANT USAGE ON SCHEMA public TO mltrading_app;
GRANT USAGE ON SCHEMA prefect TO mltrading_app, prefect_server;
ALTER DEFAULT PRIVILEGES FOR ROLE mltrading_owner IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO mltrading_app;
ALTER DEFAULT PRIVILEGES FOR ROLE mltrading_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO mltrading_app;
ALTER DEFAULT PRIVILEGES FOR ROLE prefect_owner IN SCHEMA prefect GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO prefect_server;
ALTER DEFAULT PRIVILEGES FOR ROLE prefect_owner IN SCHEMA prefect GRANT SELECT ON TABLES TO mltrading_app;
ALTER ROLE prefect_migrator IN DATABASE mltrading SET role = prefect_owner;
ALTER ROLE prefect_migrator IN DATABASE mltrading SET search_path = prefect, extensions;
ALTER ROLE prefect_server IN DATABASE mltrading SET search_path = prefect, extensions;
ALTER ROLE mltrading_app IN DATABASE mltrading SET search_path = public, prefect;
SET ROLE mltrading_owner;
\i /src/trading.sql
SQL

useradd --system --home-dir /var/lib/prefect --shell /usr/sbin/nologin prefect
useradd --system --home-dir /var/lib/prefect-worker --shell /usr/sbin/nologin prefect-worker
python3 -m venv /opt/uv
/opt/uv/bin/pip install -q --require-hashes -r /src/requirements/uv.txt
/opt/uv/bin/uv venv -q /opt/prefect/$version
VIRTUAL_ENV=/opt/prefect/$version /opt/uv/bin/uv pip sync -q --compile-bytecode --require-hashes /src/requirements/prefect-$version.txt /src/requirements/flows-$version.txt
cp -r /src/flows /opt/prefect/flows

mkdir -p /etc/prefect
install -m 0640 -g prefect /dev/stdin /etc/prefect/prefect-server.env <<ENV
PREFECT_HOME=/var/lib/prefect
PREFECT_SERVER_DATABASE_DRIVER=postgresql+asyncpg
PREFECT_SERVER_DATABASE_HOST=127.0.0.1
PREFECT_SERVER_DATABASE_PORT=5432
PREFECT_SERVER_DATABASE_NAME=mltrading
PREFECT_SERVER_DATABASE_USER=prefect_server
PREFECT_SERVER_DATABASE_PASSWORD=$server
PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH="prefect, extensions"
PREFECT_SERVER_DATABASE_MIGRATE_ON_START=false
PREFECT_SERVER_API_HOST=0.0.0.0
PREFECT_SERVER_API_AUTH_STRING=admin:$api
PREFECT_SERVER_UI_STATIC_DIRECTORY=/var/lib/prefect/ui
PREFECT_SERVER_ANALYTICS_ENABLED=false
DO_NOT_TRACK=1
ENV
install -m 0640 -g prefect-worker /dev/stdin /etc/prefect/prefect-worker.env <<ENV
PREFECT_HOME=/var/lib/prefect-worker
PREFECT_API_URL=http://127.0.0.1:4200/api
PREFECT_API_AUTH_STRING=admin:$api
PREFECT_SERVER_ANALYTICS_ENABLED=false
DO_NOT_TRACK=1
PGHOST=127.0.0.1
PGDATABASE=mltrading
PGUSER=mltrading_app
PGPASSWORD=$app
ENV
cat > /etc/systemd/system/prefect-server.service <<UNIT
[Service]
User=prefect
EnvironmentFile=/etc/prefect/prefect-server.env
StateDirectory=prefect
ExecStart=/opt/prefect/$version/bin/prefect server start
Restart=always
[Install]
WantedBy=multi-user.target
UNIT
cat > /etc/systemd/system/prefect-worker.service <<UNIT
[Service]
User=prefect-worker
EnvironmentFile=/etc/prefect/prefect-worker.env
StateDirectory=prefect-worker
ExecStart=/opt/prefect/$version/bin/prefect worker start --pool default --with-healthcheck
Restart=always
[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload

(
    set -a
    # shellcheck source=/dev/null
    . /etc/prefect/prefect-server.env
    PREFECT_SERVER_DATABASE_USER=prefect_migrator PREFECT_SERVER_DATABASE_PASSWORD=$migrator \
        PREFECT_HOME=$(mktemp -d) /opt/prefect/$version/bin/prefect server database upgrade -y > /dev/null
)
systemctl enable -q --now prefect-server
until python3 -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:4200/api/ready")' 2> /dev/null; do sleep 0.5; done

set -a
# shellcheck source=/dev/null
. /etc/prefect/prefect-worker.env
set +a
PREFECT_HOME=$(mktemp -d)
export PREFECT_HOME
prefect=/opt/prefect/$version/bin/prefect
$prefect work-pool create default --type process > /dev/null
cd /opt/prefect/flows
for flow in collect_market_data compute_trading_signals check_risk_limits; do
    $prefect --no-prompt deploy "$flow.py:$flow" --name daily --pool default > /dev/null
done
$prefect --no-prompt deploy collect_market_data.py:collect_market_data --name sample --pool default > /dev/null
systemctl enable -q --now prefect-worker
until python3 -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:8080/health")' 2> /dev/null; do sleep 0.5; done
