"""PostgreSQL's next major version, and the way back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable

import pytest
from testinfra.host import Host

from tests.support.project import ROOT
from tests.support.scenario import PSQL, SCENARIO, Playbook, Typed, changed, wait_for_health
from tests.support.waiting import wait_for

UPGRADE = "playbooks/upgrade_postgresql.yml"
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


@pytest.mark.usefixtures("completed_run")
def test_what_bars_it_is_named(host: Host, playbook: Playbook) -> None:
    host.check_output("runuser --user postgres -- createdb shop")
    done = playbook(UPGRADE)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0 and "Nothing was stopped. The cluster also has the databases shop" in said, said
    host.check_output("runuser --user postgres -- dropdb shop")
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
    copies = "test -e /etc/prefect/postgresql_upgrade && pgrep --full 'bin/pg_(dump|restore|upgrade)'"
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
    host.check_output("touch /var/lib/postgresql/17/main/somebody")
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


def test_taken_back_as_the_page_says(host: Host, typed: Typed, contents: Contents) -> None:
    before = contents()
    typed("upgrade.md", "Go back to the old PostgreSQL")
    assert version(host) == "15" and contents() == before
    wait_for_health(host)
    assert "completed in" in host.check_output("pgprefect upgrade canary")
