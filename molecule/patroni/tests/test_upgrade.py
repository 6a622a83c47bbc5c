"""An upgrade of Prefect and its way back, where the database has several hosts and the primary is not the first."""

from __future__ import annotations

import re

import pytest
from testinfra.host import Host

from tests.support.hosts import changed, command_of, wait_for_health
from tests.support.project import host_virtualenv
from tests.support.scenario import PSQL, Playbook
from tests.support.waiting import wait_for

REVISION = "SELECT version_num FROM prefect.alembic_version"
RUN = "prefect deployment run collect-market-data/sample --watch"

pytestmark = pytest.mark.thorough


def works(members: dict[str, Host], app: Host, primary: str, release: str, revision: str) -> None:
    """This release runs on a schema of this revision, which all hosts of the database have."""

    def stored() -> set[str]:
        return {host.check_output(PSQL, REVISION) for host in members.values()}

    wait_for(lambda: stored() == {revision}, stored, 30)
    for unit in ("prefect-server@prefect", "prefect-worker@prefect-default-1"):
        assert f"{host_virtualenv(release)}/bin/" in command_of(app, unit)
    assert "Flow run finished successfully" in app.check_output(RUN)
    wait_for_health(app)
    found = members[primary].run("pgprefect verify")
    assert found.rc == 0, found.stdout


def test_an_upgrade_and_its_way_back(members: dict[str, Host], app: Host, primary: str, playbook: Playbook) -> None:
    upgrade = ("playbooks/upgrade_prefect.yml", "-e", "prefect_version=3.9.1")
    before = members[primary].check_output(PSQL, REVISION)
    sets = {name: host.check_output("ls /var/backups/prefect") for name, host in members.items()}
    looked = playbook(*upgrade, "--check")
    assert looked.returncode == 0 and "would be" in looked.stdout, looked.stdout
    done = playbook(*upgrade)
    assert done.returncode == 0, done.stdout
    assert "Prefect 3.8.8 became 3.9.1" in done.stdout
    # One set, on the primary's host, and one host that verifies.
    after = {name: host.check_output("ls /var/backups/prefect") for name, host in members.items()}
    assert {name for name in members if after[name] != sets[name]} <= {primary}
    assert len(re.findall(r"(?:Made|Took, because it passed a drill,) \d{8}T", done.stdout)) == 1
    later = members[primary].check_output(PSQL, REVISION)
    assert later != before
    works(members, app, primary, "3.9.1", later)
    back = playbook("playbooks/roll_back_prefect.yml")
    assert back.returncode == 0, back.stdout
    works(members, app, primary, "3.8.8", before)
    site = playbook("site.yml")
    assert site.returncode == 0 and set(changed(site.stdout)) == {0}, site.stdout
