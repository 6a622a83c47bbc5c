"""Backups of two tenants, by a PostgreSQL that compresses them itself: one comes back alone from a set of all."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

from tests.support.hosts import wait_for_health
from tests.support.scenario import PSQL, Playbook

RUNS = """SELECT count(*), md5(string_agg(id::text, '' ORDER BY id)) FROM "Research-2".flow_run
          WHERE state_type = 'COMPLETED'"""


@pytest.mark.thorough
def test_one_tenant_comes_back_from_a_full_set(host: Host, playbook: Playbook) -> None:
    host.check_output(
        PSQL,
        """INSERT INTO "Research-2".flow (name) VALUES ('kept') ON CONFLICT DO NOTHING;
           INSERT INTO "Research-2".flow_run (flow_id, name, state_type)
           SELECT id, 'kept', 'COMPLETED' FROM "Research-2".flow WHERE name = 'kept'""",
    )
    runs = host.check_output(PSQL, RUNS)
    host.check_output("pgprefect backup")
    newest = json.loads(host.check_output("pgprefect backup list --json"))[-1]
    files = [part["file"] for part in newest["parts"]]
    assert files == ["app.dump", "workflow-prefect.dump", "workflow-research.dump", "globals.sql.zst"]
    assert sorted(json.loads(host.check_output("pgprefect drill --json"))["servers"]) == ["prefect", "research"]

    host.check_output(PSQL, 'DROP SCHEMA "Research-2" CASCADE')
    host.check_output(PSQL, "INSERT INTO prefect.flow (name) VALUES ('later') ON CONFLICT DO NOTHING")
    confirmed = ("--extra-vars", "prefect_backup_restore_confirmed=true")
    done = playbook(
        "playbooks/restore_backup.yml", *confirmed, "--extra-vars", "prefect_backup_restore_tenant=research"
    )
    assert done.returncode == 0, done.stdout
    assert host.check_output(PSQL, RUNS) == runs
    assert host.check_output(PSQL, "SELECT count(*) FROM prefect.flow WHERE name = 'later'") == "1"
    wait_for_health(host)
