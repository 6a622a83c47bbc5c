"""The scheduled cleanup: cron's file, what its lines do when cron runs them, and what health says of it."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from testinfra.host import Host

from tests.support.scenario import PSQL, Playbook, as_cron

FILE = "/etc/cron.d/prefect-retention"
KILLED = "/var/backups/prefect/.partial-20260101T000000Z"  # of a backup; the next job of any kind removes it


@pytest.fixture(scope="module")
def site(host: Host) -> dict[str, Any]:
    """What pgprefect knows of the site."""
    found: dict[str, Any] = json.loads(host.file("/etc/prefect/pgprefect.json").content_string)
    return found


@pytest.fixture(scope="module")
def commands(host: Host, tenants: list[str]) -> dict[str, str]:
    """What cron runs, by tenant."""
    lines = [line.split(maxsplit=6) for line in host.file(FILE).content_string.splitlines() if line[:1].isdigit()]
    assert all(line[2:6] == ["*", "*", "*", "root"] for line in lines), lines
    found = {line[6].split(" --tenant ")[1].split()[0]: line[6] for line in lines}
    assert sorted(found) == sorted(tenants) and len({(line[0], line[1]) for line in lines}) == len(tenants)
    return found


def health(host: Host, site: dict[str, Any], tenant: str) -> tuple[str, list[dict[str, str]], dict[str, Any]]:
    """What root's command says of a tenant's cleanup: the status, the problems, the details."""
    found = json.loads(host.run("pgprefect health --json").stdout)
    name = "cleanup" if tenant == site["tenants"][0]["name"] else f"cleanup:{tenant}"
    problems = [problem for problem in found["problems"] if problem["object"] == f"cleanup of tenant {tenant}"]
    return found["checks"][name], problems, found["details"][name]


def test_the_file_is_root_s_alone_to_change(host: Host) -> None:
    file = host.file(FILE)
    assert (file.user, file.group, file.mode) == ("root", "root", 0o644)
    assert 'MAILTO=""' in file.content_string
    assert host.service("cron").is_running and host.service("cron").is_enabled


def test_a_line_ends_as_its_command_does(host: Host, commands: dict[str, str]) -> None:
    for command in commands.values():
        wrong = command.replace("--tenant ", "--tenant no_")
        assert wrong != command and as_cron(host, FILE, "root", wrong).rc == 3


def test_a_cleanup_deletes_what_is_old_and_leaves_the_rest(
    host: Host, commands: dict[str, str], site: dict[str, Any]
) -> None:
    for tenant, command in commands.items():
        schema = next(part["schema"] for part in site["tenants"] if part["name"] == tenant)
        make = f"""
            INSERT INTO "{schema}".flow (name) VALUES ('retention') ON CONFLICT DO NOTHING;
            INSERT INTO "{schema}".flow_run (flow_id, name, state_type, state_name, start_time, end_time)
            SELECT f.id, r.name, 'COMPLETED', 'Completed', now() - r.age, now() - r.age
            FROM "{schema}".flow f,
                 (VALUES ('retention-old', interval '200 days'), ('retention-new', interval '1 hour')) r (name, age)
            WHERE f.name = 'retention'"""
        left = f"""SELECT string_agg(name, ' ') FROM "{schema}".flow_run WHERE name LIKE 'retention-%'"""
        host.check_output(PSQL, make)
        host.check_output("mkdir -p %s", KILLED)
        begun = int(time.time())
        done = as_cron(host, FILE, "root", command)
        assert (done.rc, done.stdout, done.stderr) == (0, "", "")
        try:
            assert host.check_output(PSQL, left) == "retention-new"
            assert not host.file(KILLED).exists
        finally:
            host.check_output(PSQL, f"""DELETE FROM "{schema}".flow WHERE name = 'retention'""")
        host.check_output("journalctl --sync")
        journal = host.check_output("journalctl --no-pager -o cat -t prefect-retention -S %s", f"@{begun}")
        assert re.search(r"^flow_run +1$", journal, re.MULTILINE), journal
        status, problems, details = health(host, site, tenant)
        assert (status, problems, details["ok"]) == ("healthy", [], True)
        assert details["figures"]["flow_runs_deleted"] >= 1


def test_health_shows_a_cleanup_that_was_refused(host: Host, commands: dict[str, str], site: dict[str, Any]) -> None:
    tenant, command = next(iter(commands.items()))
    record = f"/var/lib/pgprefect/jobs/cleanup-{tenant}.json"
    try:
        host.check_output(PSQL, "ALTER DATABASE mltrading SET track_counts = off")
        assert as_cron(host, FILE, "root", command).rc == 2
        status, (problem,), _ = health(host, site, tenant)
        assert (status, problem["code"]) == ("degraded", "job_failed")
        assert "track_counts is off" in problem["message"]
        assert f"pgprefect --tenant {tenant} cleanup" in problem["remedy"]
    finally:
        host.check_output(PSQL, "ALTER DATABASE mltrading RESET track_counts")
        host.run("rm %s", record)
    status, (problem,), _ = health(host, site, tenant)
    assert (status, problem["code"]) == ("healthy", "job_not_run_yet")


def test_cron_stops_where_it_is_switched_off(host: Host, playbook: Playbook) -> None:
    try:
        stopped = playbook("playbooks/retention.yml", "--diff", "--extra-vars", "prefect_retention_enabled=false")
        assert stopped.returncode == 0 and not host.file(FILE).exists, stopped.stdout
        found = json.loads(host.run("pgprefect health --json").stdout)
        assert "job_not_scheduled" in {problem["code"] for problem in found["problems"]}
    finally:
        again = playbook("playbooks/retention.yml", "--diff")
    assert again.returncode == 0 and host.file(FILE).exists, again.stdout
