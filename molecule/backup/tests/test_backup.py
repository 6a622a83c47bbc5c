"""The scheduled backup: cron's file, what its line makes when cron runs it, and what health says of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from testinfra.host import Host

from tests.support.scenario import Typed, as_cron

FILE = "/etc/cron.d/prefect-backup"
HOME = "/var/backups/prefect"
RECORD = "/var/lib/prefect_backup/backup.json"


@pytest.fixture(scope="module")
def command(host: Host) -> str:
    """What cron runs each night."""
    lines = host.file(FILE).content_string.splitlines()
    (line,) = [line for line in lines if re.match("[0-9*].* backup$", line)]
    fields = line.split(maxsplit=6)
    assert fields[5] == "prefect_backup"
    return str(fields[6])


def sets(host: Host) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.check_output("pgprefect backup list --json"))
    return found


def health(host: Host) -> tuple[str, list[str]]:
    """What root's command says of the backup: the status, and the codes of the problems."""
    found = json.loads(host.run("pgprefect health --json").stdout)
    return found["checks"]["backup"], [part["code"] for part in found["problems"] if part["object"] == "backup"]


def test_cron_makes_a_whole_set_that_only_its_user_can_read(host: Host, command: str) -> None:
    before = [found["name"] for found in sets(host)]
    done = as_cron(host, FILE, "prefect_backup", command)
    assert (done.rc, done.stdout, done.stderr) == (0, "", "")
    newest = sets(host)[-1]
    assert newest["name"] not in before
    host.check_output("journalctl --sync")
    assert f"{HOME}/{newest['name']}" in host.check_output("journalctl --no-pager -o cat -t prefect-backup")
    kinds = [(part["kind"], part["schema"]) for part in newest["parts"]]
    assert kinds[0] == ("app", "public") and kinds[-1] == ("globals", None) and ("workflow", "prefect") in kinds
    listed = host.check_output(f"find {HOME} -mindepth 1 -printf '%u %m %y\\n' | sort -u")
    assert listed.splitlines() == ["prefect_backup 600 f", "prefect_backup 700 d"]
    assert host.run(f"runuser --user prefect -- ls {HOME}").rc != 0
    assert health(host) == ("healthy", [])


def test_a_flipped_byte_is_found(host: Host) -> None:
    newest = sets(host)[-1]
    file = f"{HOME}/{newest['name']}/{newest['parts'][0]['file']}"
    assert host.run("pgprefect backup check").rc == 0
    missing = host.run("pgprefect backup check --set 20200101T000000Z")
    assert missing.rc == 2 and "backup_missing: There is no set 20200101T000000Z" in missing.stderr
    host.check_output(f"cp -a {file} /var/tmp/kept && printf x | dd of={file} bs=1 seek=3000 conv=notrunc status=none")
    try:
        checked = host.run("pgprefect backup check --set %s", newest["name"])
        assert checked.rc == 2 and f"backup_damaged: {file} is not what was written" in checked.stderr
    finally:
        host.check_output(f"mv /var/tmp/kept {file}")
    assert host.run("pgprefect backup check").rc == 0


def test_a_backup_that_fails_shows_in_health_and_leaves_the_sets(host: Host, command: str) -> None:
    before = sets(host)
    change = (
        "runuser --user postgres -- psql --no-psqlrc --quiet --dbname postgres --command 'ALTER ROLE prefect_backup {}'"
    )
    host.check_output(change.format("NOLOGIN"))
    try:
        assert as_cron(host, FILE, "prefect_backup", command).rc == 3
        host.check_output("journalctl --sync")
        said = host.check_output("journalctl --no-pager -o cat -n 5 -t prefect-backup")
        assert "login_refused: PostgreSQL at the unix socket of port 5432 refused the login as prefect_backup" in said
        assert health(host) == ("degraded", ["job_failed"])
    finally:
        host.check_output(change.format("LOGIN"))
    assert sets(host) == before
    assert as_cron(host, FILE, "prefect_backup", command).rc == 0
    assert health(host) == ("healthy", [])


def test_by_hand_and_by_the_playbook(host: Host, typed: Typed) -> None:
    before = sets(host)
    typed("backup.md", "Backups")
    made = typed("backup.md", "By hand")
    newest = sets(host)[-1]
    assert newest["name"] not in [found["name"] for found in before] and newest["name"] in made[-1]
    *_, record = typed("backup.md", "Check the last backup")
    assert newest["name"] in record


def test_a_drill_proves_the_newest_set_and_leaves_nothing_behind(host: Host) -> None:
    lines = host.file(FILE).content_string.splitlines()
    (line,) = [line for line in lines if re.match("[0-9*].* drill$", line)]
    host.check_output("pgprefect backup")
    newest = sets(host)[-1]
    assert not newest["verified"]
    done = as_cron(host, FILE, "root", line.split(maxsplit=6)[6])
    host.check_output("journalctl --sync")
    said = host.check_output("journalctl --no-pager -o cat -n 40 -t prefect-backup")
    assert done.rc == 0, said
    assert sets(host)[-1]["verified"]
    passed = json.loads(host.file(f"{HOME}/{newest['name']}/verified.json").content_string)
    assert passed["rows"] == sum(sum(part["rows"].values()) for part in newest["parts"])
    if host.file("/usr/local/bin/prefect").exists:
        assert sorted(passed["servers"]) == sorted(part["tenant"] for part in newest["parts"] if part["tenant"])
    assert host.check_output("ls /var/lib/prefect-drill") == "" and host.run("pgrep --uid prefect-drill").rc == 1
    found = json.loads(host.run("pgprefect health --json").stdout)
    assert found["checks"]["drill"] == "healthy" and found["details"]["drill"]["ok"]


@pytest.mark.thorough
def test_in_a_directory_whose_name_has_a_space(host: Host) -> None:
    config = json.loads(host.file("/etc/prefect/pgprefect.json").content_string)
    config["backups"]["directory"] = "/var/backups/with space"
    host.check_output("install -d -o prefect_backup -m 0700 '/var/backups/with space'")
    host.check_output("printf %%s %s > /run/spaced.json", json.dumps(config))
    try:
        host.check_output("pgprefect --config /run/spaced.json backup")
        host.check_output("pgprefect --config /run/spaced.json drill")
        assert "It would make the table" in host.check_output(
            "pgprefect --config /run/spaced.json restore --table public.orders --dry-run"
        )
    finally:
        host.check_output("rm -r '/var/backups/with space' /run/spaced.json")


def test_a_set_that_does_not_come_back_as_it_was_is_not_verified(host: Host) -> None:
    host.check_output("pgprefect backup")
    newest = sets(host)[-1]
    manifest = f"{HOME}/{newest['name']}/manifest.json"
    host.check_output(f'sed -i \'s/"indexes": [1-9][0-9]*/"indexes": 1/\' {manifest}')
    try:
        done = host.run("pgprefect drill")
        assert done.rc == 2 and "drill_failed" in done.stderr and "the manifest says (1, " in done.stderr
        assert not sets(host)[-1]["verified"]
        assert host.check_output("ls /var/lib/prefect-drill") == ""
        found = json.loads(host.run("pgprefect health --json").stdout)
        assert found["checks"]["drill"] == "degraded"
    finally:
        host.check_output(f"rm -r {HOME}/{newest['name']}")
    host.check_output("pgprefect drill")
    assert json.loads(host.run("pgprefect health --json").stdout)["checks"]["drill"] == "healthy"


@pytest.mark.thorough
def test_a_killed_drill_proves_nothing_and_the_next_one_clears_up(host: Host, typed: Typed) -> None:
    host.check_output("pgprefect backup")
    started = "nohup pgprefect drill >/dev/null 2>&1 & "
    wait = "until [ -e /var/lib/prefect-drill/cluster/data/postmaster.pid ]; do sleep 0.1; done; "
    host.check_output("timeout 60 bash -c %s", f"{started}{wait}kill -9 $!; wait; true")
    # The user's Python is a child of the shell that cron would have started; the unit lives on, or has ended.
    host.run("pkill -9 --full '[p]gprefect.* drill$'")
    assert not sets(host)[-1]["verified"]
    assert "job_never_ended" in host.run("pgprefect health --json").stdout
    typed("backup.md", "The restore drill")
    assert host.run("pgrep --uid prefect-drill").rc == 1 and host.check_output("ls /var/lib/prefect-drill") == ""
    assert sets(host)[-1]["verified"]
    assert json.loads(host.run("pgprefect health --json").stdout)["checks"]["drill"] == "healthy"


@pytest.mark.thorough
def test_a_drill_runs_the_sets_code_where_it_can_reach_nothing(host: Host) -> None:
    """A check of the application's own function, which becomes a superuser's in the temporary cluster."""
    psql = "runuser --user postgres -- psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname mltrading --command %s"
    reach = """
        CREATE FUNCTION public.reach() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
            IF current_setting('is_superuser') = 'on' AND current_setting('port') <> '5432' THEN
                EXECUTE $copy$ COPY (SELECT 1) TO PROGRAM '
                exec > /var/lib/prefect-drill/cluster/reached 2>&1; id -un; ls /var/backups/prefect /etc/prefect/worker;
                cat /var/lib/prefect_backup/* /etc/prefect/*.env; ls /run/postgresql; ip -brief address; true' $copy$;
            END IF; RETURN true; END $$"""
    host.check_output(psql, reach)
    host.check_output(
        psql, "CREATE TABLE public.planted (a int CHECK (public.reach())); INSERT INTO planted VALUES (1)"
    )
    keep = (
        "until [ -s /var/lib/prefect-drill/cluster/reached ]; do sleep 0.05; done; "
        "while cp /var/lib/prefect-drill/cluster/reached /root/ 2>/dev/null; do sleep 0.05; done"
    )
    try:
        host.check_output("pgprefect backup")
        host.check_output("timeout 120 bash -c %s & pgprefect drill", keep)
        said = host.check_output("cat /root/reached")
    finally:
        host.check_output(psql, "DROP TABLE IF EXISTS public.planted; DROP FUNCTION public.reach()")
    assert said.startswith("prefect-drill\n"), said
    assert "manifest.json" not in said and "PASSWORD" not in said and ".s.PGSQL" not in said
    assert said.count("Permission denied") + said.count("No such file") >= 4, said
    assert "eth0" not in said
