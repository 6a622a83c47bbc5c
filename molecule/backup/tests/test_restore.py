"""A destroyed schema comes back by the playbook while the site stands; a failed restore leaves all running."""

from __future__ import annotations

import json

from conftest import Playbook
from testinfra.host import Host

PSQL = "runuser --user postgres -- psql --no-psqlrc --quiet --tuples-only --no-align --dbname mltrading --command %s"
CONFIRMED = ("--extra-vars", "prefect_backup_restore_confirmed=true")


def health(host: Host) -> str:
    status: str = json.loads(host.run("pgprefect health --json").stdout)["overall_status"]
    return status


def test_nothing_happens_without_a_word(host: Host, playbook: Playbook) -> None:
    host.check_output("pgprefect backup")
    before = host.check_output("systemctl show --property MainPID prefect-server@prefect")
    refused = playbook("playbooks/restore.yml")
    assert refused.returncode != 0
    assert "It would replace prefect in the database mltrading" in refused.stdout
    assert "prefect_backup_restore_confirmed=true" in refused.stdout
    assert host.check_output("systemctl show --property MainPID prefect-server@prefect") == before
    looked = playbook("playbooks/restore.yml", "--check")
    assert looked.returncode == 0, looked.stdout
    assert host.check_output("systemctl show --property MainPID prefect-server@prefect") == before


def test_prefect_s_schema_comes_back_after_it_was_destroyed(host: Host, playbook: Playbook) -> None:
    runs = host.check_output(PSQL, "SELECT count(*), md5(string_agg(id::text, '' ORDER BY id)) FROM prefect.flow_run"
                                   " WHERE state_type = 'COMPLETED'")  # fmt: skip
    host.check_output("systemctl stop 'prefect-worker@*' prefect-server@prefect")
    host.check_output("pgprefect backup")
    host.check_output(
        PSQL,
        "DELETE FROM prefect.flow_run; DELETE FROM system_logs WHERE event_type = 'r';"
        " INSERT INTO system_logs (event_type, message) VALUES ('r', 'later')",
    )
    done = playbook("playbooks/restore.yml", *CONFIRMED, "--extra-vars", "prefect_backup_restore_set=" + newest(host))
    assert done.returncode == 0, done.stdout
    assert runs == host.check_output(
        PSQL,
        "SELECT count(*), md5(string_agg(id::text, '' ORDER BY id)) FROM prefect.flow_run"
        " WHERE state_type = 'COMPLETED'",
    )
    assert host.check_output(PSQL, "SELECT count(*) FROM system_logs WHERE event_type = 'r'") == "1"
    assert host.run("pgprefect verify").rc == 0
    assert health(host) == "healthy"


def newest(host: Host) -> str:
    name: str = json.loads(host.check_output("pgprefect backup list --json"))[-1]["name"]
    return name


def test_a_restore_that_fails_leaves_all_as_it_was_and_running(host: Host, playbook: Playbook) -> None:
    host.check_output(PSQL, "CREATE VIEW public.in_the_way AS SELECT id FROM prefect.flow_run")
    try:
        failed = playbook("playbooks/restore.yml", *CONFIRMED)
        assert failed.returncode != 0
        assert "1 objects of other schemas stand on what would be replaced" in failed.stdout
        assert host.check_output(PSQL, "SELECT count(*) > 0 FROM public.in_the_way") == "t"
        # What was made for safety is not what the next try restores.
        assert newest(host).endswith("-safety")
        assert newest(host) not in host.check_output("pgprefect restore --kind workflow --dry-run")
        assert host.service("prefect-server@prefect").is_running
    finally:
        host.check_output(PSQL, "DROP VIEW public.in_the_way")
    assert health(host) == "healthy"


def test_into_a_database_beside(host: Host) -> None:
    host.check_output("pgprefect restore --into aside")
    try:
        question = "SELECT count(*) FROM prefect.flow_run"
        aside = host.check_output(PSQL.replace("mltrading", "aside"), question)
        assert aside != "0"
    finally:
        host.check_output(PSQL.replace("mltrading", "postgres"), "DROP DATABASE aside WITH (FORCE)")


def test_a_killed_drill_proves_nothing_and_the_next_one_clears_up(host: Host) -> None:
    host.check_output("pgprefect backup")
    started = "nohup pgprefect drill >/dev/null 2>&1 & "
    wait = "until ls /var/backups/prefect/drill-*/data/postmaster.pid >/dev/null 2>&1; do sleep 0.1; done; "
    host.check_output("timeout 60 bash -c %s", f"{started}{wait}kill -9 $!; wait; true")
    # The user's Python is a child of the shell that cron would have started; the cluster lives on.
    host.run("pkill -9 --full '[p]gprefect drill'")
    assert host.run("pgrep --full '/var/backups/prefect/[d]rill-'").rc == 0
    assert not json.loads(host.check_output("pgprefect backup list --json"))[-1]["verified"]
    assert "job_never_ended" in host.run("pgprefect health --json").stdout
    assert host.run("pgprefect drill").rc == 0
    assert host.run("pgrep --full '/var/backups/prefect/[d]rill-'").rc == 1
    assert host.run("ls -d /var/backups/prefect/drill-*").rc != 0
    assert json.loads(host.check_output("pgprefect backup list --json"))[-1]["verified"]
    assert health(host) == "healthy"
