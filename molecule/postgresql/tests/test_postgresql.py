"""PostgreSQL's next major version, and the way back; beside a cluster of somebody else, who takes no notice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable

import pytest
from testinfra.host import Host

from tests.support.hosts import changed, wait_for_health
from tests.support.project import ROOT
from tests.support.scenario import PSQL as DEFAULT_PSQL
from tests.support.scenario import SCENARIO, Playbook, Typed, as_cron
from tests.support.waiting import wait_for

UPGRADE = "playbooks/upgrade_postgresql.yml"
PORT = 5433
PSQL = DEFAULT_PSQL.replace("psql ", f"psql --port {PORT} ")
TABLES = """SELECT string_agg(format('SELECT %L, md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM %I.%I t',
schemaname || '.' || tablename, schemaname, tablename), ' UNION ALL ') FROM pg_tables WHERE schemaname = 'public'
OR schemaname = 'prefect' AND tablename IN ('flow', 'flow_run', 'block_document', 'configuration', 'variable')"""
Contents = Callable[[], list[str]]


@pytest.fixture
def contents(host: Host) -> Contents:
    """What the database holds, and what roles may."""

    def read() -> list[str]:
        rows = host.check_output(PSQL, host.check_output(PSQL, TABLES))
        rights = host.check_output(PSQL, "SELECT datacl, datconnlimit FROM pg_database WHERE datname = 'mltrading'")
        return [*sorted(rows.splitlines()), rights]

    return read


def version(host: Host) -> str:
    return str(host.check_output(PSQL, "SHOW server_version")).partition(".")[0]


def put_aside(host: Host) -> list[str]:
    """The clusters that failed upgrades left; none of them runs."""
    listed = json.loads(host.check_output("pg_lsclusters --json"))
    left = [cluster for cluster in listed if cluster["cluster"].startswith("failed")]
    assert not any(int(cluster["running"]) for cluster in left)
    return [cluster["cluster"] for cluster in left]


def untouched(host: Host) -> None:
    """Fail where the cluster of somebody else is not as before the first site.yml, or was restarted."""
    assert host.check_output("cd / && look-at-the-neighbour") == host.check_output("cat /root/neighbour")


def test_the_sites_cluster_works_beside_somebody_elses(host: Host, playbook: Playbook, completed_run: str) -> None:
    assert completed_run and version(host) == "15"
    listed = [line.split() for line in host.check_output("pg_lsclusters --no-header").splitlines()]
    clusters = {line[1]: line[2] for line in listed}
    assert clusters == {"main": "5432", "prefect": str(PORT)}
    verified = playbook("playbooks/verify.yml")
    assert verified.returncode == 0, verified.stdout
    backup = as_cron(host, "/etc/cron.d/prefect-backup", "prefect_backup", "/usr/local/bin/pgprefect backup")
    assert backup.rc == 0, backup.stderr
    drill = as_cron(host, "/etc/cron.d/prefect-backup", "root", "/usr/local/bin/pgprefect drill")
    assert drill.rc == 0, drill.stderr
    stocks = host.check_output(PSQL, "SELECT count(*) FROM stock_info")
    host.check_output(PSQL, "DELETE FROM market_data; DELETE FROM stock_info")
    kinds = '{"prefect_backup_restore_kinds": ["app"], "prefect_backup_restore_confirmed": true}'
    restored = playbook("playbooks/restore_backup.yml", "-e", kinds)
    assert restored.returncode == 0, restored.stdout
    assert host.check_output(PSQL, "SELECT count(*) FROM stock_info") == stocks != "0"
    assert host.run("pgprefect verify").rc == host.run("pgprefect health").rc == 0
    untouched(host)


@pytest.mark.usefixtures("completed_run")
def test_what_bars_it_is_named(host: Host, playbook: Playbook) -> None:
    host.check_output(f"runuser --user postgres -- createdb --port {PORT} shop")
    done = playbook(UPGRADE)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0 and "Nothing was stopped. The cluster also has the databases shop" in said, said
    host.check_output(f"runuser --user postgres -- dropdb --port {PORT} shop")
    assert version(host) == "15"
    wait_for_health(host)


def test_it_goes_back_where_pg_upgrade_fails(host: Host, playbook: Playbook, contents: Contents) -> None:
    before = contents()
    # The new version does not find what the old one loads.
    host.check_output("mkdir --parents /etc/postgresql-common/pg_upgradecluster.d")
    hook = "/etc/postgresql-common/pg_upgradecluster.d/broken"
    host.check_output("printf '#!/bin/sh\\nexit 1\\n' >%s && chmod 755 %s", hook, hook)
    try:
        done = playbook(UPGRADE)
    finally:
        host.check_output("rm %s", hook)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0 and "PostgreSQL 15 runs again as before" in said, said
    assert version(host) == "15" and contents() == before
    wait_for_health(host)
    for name in put_aside(host):
        assert f"What it made stays as the cluster 17/{name}, stopped." in said
        host.check_output("pg_dropcluster 17 %s", name)


def kill_an_upgrade(host: Host) -> None:
    """Begin an upgrade, and kill everything of it while it copies."""
    killed = subprocess.Popen(
        [ROOT / ".venv/bin/ansible-playbook", "-i", str(SCENARIO / "inventory"), UPGRADE],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    # Not before there is a half-made cluster.
    copies = "ls /etc/prefect/postgresql_upgrade /etc/postgresql/17/prefect/postgresql.conf && pgrep pg_upgrade"
    wait_for(lambda: host.run(copies).rc == 0, seconds=300)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    host.check_output("pkill -KILL --full '[p]g_upgradecluster'; pkill -KILL --full '[b]in/pg_upgrade'; true")
    assert host.file("/etc/prefect/postgresql_upgrade").content_string == "15\n"


def test_upgraded_as_the_page_says_after_a_killed_one(
    host: Host, typed: Typed, playbook: Playbook, contents: Contents
) -> None:
    before = contents()
    kill_an_upgrade(host)
    host.check_output("touch /var/lib/postgresql/17/prefect/somebody")
    would, done = typed("upgrade.md", "Upgrade PostgreSQL")
    assert changed(would) == [0] and "An upgrade from PostgreSQL 15 was killed" in would, would
    assert "PostgreSQL 15 became 17" in done, done
    (half,) = put_aside(host)
    assert host.file(f"/var/lib/postgresql/17/{half}/somebody").exists
    assert version(host) == "17" and contents() == before
    assert int(host.check_output(PSQL, "SELECT count(*) FROM pg_stats WHERE schemaname = 'prefect'")) > 100
    wait_for_health(host)
    for again in (playbook(UPGRADE), playbook("site.yml")):
        assert again.returncode == 0 and changed(again.stdout) == [0], again.stdout
    assert "completed in" in host.check_output("pgprefect upgrade canary")
    # The cluster on the default port is an older one.
    host.check_output("pgprefect backup && pgprefect drill")
    untouched(host)


def test_taken_back_as_the_page_says(host: Host, typed: Typed, contents: Contents) -> None:
    before = contents()
    typed("upgrade.md", "Go back to the old PostgreSQL", **{"main": "prefect", "5432": str(PORT)})
    assert version(host) == "15" and contents() == before
    wait_for_health(host)
    assert "completed in" in host.check_output("pgprefect upgrade canary")
    untouched(host)
