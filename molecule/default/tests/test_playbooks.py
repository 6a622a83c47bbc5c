"""What the playbooks promise beside their result: truth in check mode."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from tests.support.scenario import Playbook


@pytest.mark.thorough
def test_check_mode_sees_what_a_run_would_mend(host: Host, playbook: Playbook) -> None:
    host.check_output(
        "runuser --user postgres -- psql --dbname mltrading --command %s", "GRANT CREATE ON SCHEMA public TO PUBLIC"
    )
    host.check_output("chmod 0644 /etc/prefect/prefect-server.env")
    would = playbook("site.yml", "--check", "--diff")
    assert would.returncode == 0, would.stdout
    assert "schema public: PUBLIC CREATE" in would.stdout
    did = playbook("playbooks/database.yml", "playbooks/server.yml", "--diff")
    assert did.returncode == 0, did.stdout
    assert host.file("/etc/prefect/prefect-server.env").mode == 0o640
    assert "schema public: PUBLIC CREATE" in did.stdout


def test_the_playbooks_beside_the_site(playbook: Playbook, completed_run: str) -> None:
    assert completed_run
    statistics = playbook("playbooks/statistics.yml")
    assert statistics.returncode == 0 and "collect-market-data: " in statistics.stdout, statistics.stdout
    refused = playbook(
        "playbooks/clean_up_runs.yml", "--extra-vars", '{"prefect_retention_policy": {"days_to_keep": -1}}'
    )
    assert refused.returncode != 0 and "days_to_keep: -1 must be from 0" in refused.stdout, refused.stdout


@pytest.mark.thorough
def test_a_tag_alone_leaves_no_job_that_health_misses(host: Host, playbook: Playbook) -> None:
    """pgprefect.json names the jobs that cron starts, whichever role's tag is asked for."""
    without = ["--extra-vars", "prefect_retention_enabled=false"]
    try:
        done = playbook("site.yml", "--tags", "prefect_retention", *without)
        assert done.returncode == 0, done.stdout
        assert not host.file("/etc/cron.d/prefect-retention").exists
        assert "job_not_scheduled" not in host.run("pgprefect health --json").stdout
    finally:
        done = playbook("site.yml", "--tags", "prefect_retention")
    assert done.returncode == 0 and host.file("/etc/cron.d/prefect-retention").exists, done.stdout
    assert '"cleanup"' in host.file("/etc/prefect/pgprefect.json").content_string
