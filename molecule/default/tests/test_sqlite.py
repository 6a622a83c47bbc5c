"""The SQLite file of an older Prefect on another user's home, imported as the page says, and the site as before."""

from __future__ import annotations

import contextlib
import lzma
import shlex
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

from tests.support.hosts import wait_for_health
from tests.support.project import ROOT
from tests.support.scenario import PREFECT, PSQL, Typed

pytestmark = pytest.mark.thorough
FILE = "/home/old/.prefect/prefect.db"
# What the page's reader does not have: runs of the tenant.
EMPTY = """TRUNCATE prefect.flow, prefect.flow_run, prefect.block_document, prefect.variable, prefect.automation,
prefect.artifact, prefect.artifact_collection, prefect.concurrency_limit, prefect.concurrency_limit_v2,
prefect.task_run_state_cache, prefect.events, prefect.event_resources CASCADE"""
RUNS = "SELECT count(*), count(*) FILTER (WHERE state_type = 'COMPLETED') FROM prefect.flow_run WHERE name LIKE 'run-%'"


@pytest.fixture
def old_file(host: Host, container: str, tmp_path: Path) -> Iterator[str]:
    """The file of Prefect 3.2.15 in the home of a user, as if it had run today; returns its checksum."""
    path = tmp_path / "prefect.db"
    path.write_bytes(lzma.decompress((ROOT / "tests/database/imports/prefect-3.2.15.db.xz").read_bytes()))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
        connection.execute(f"UPDATE events SET occurred = {now}")
        connection.execute(f"UPDATE flow_run SET end_time = {now} WHERE end_time IS NOT NULL")
    host.check_output("useradd --create-home old && runuser --user old -- mkdir -m 700 /home/old/.prefect")
    subprocess.run(["docker", "cp", path, f"{container}:{FILE}"], check=True)
    host.check_output(f"chown old: {FILE} && chmod 600 {FILE}")
    yield host.check_output(f"sha256sum {FILE}")
    host.check_output("userdel --remove old")


@pytest.fixture
def emptied(host: Host) -> Iterator[None]:
    """The tenant without runs, and afterwards as it was."""
    host.check_output("pgprefect backup create --kind workflow --safety")
    name = host.check_output("ls -t /var/backups/prefect | head -1")
    host.check_output(PSQL, EMPTY)
    yield
    host.check_output("systemctl stop 'prefect-worker@*' 'prefect-server@*'")
    host.check_output(f"pgprefect restore --set {name} --kind workflow --no-safety-set --yes")
    host.check_output("systemctl start prefect-server@prefect prefect-worker@prefect-default-1")
    wait_for_health(host)


@pytest.mark.usefixtures("emptied")
def test_an_old_server_on_sqlite(host: Host, typed: Typed, old_file: str) -> None:
    words = {" --ask-become-pass": ""}
    checked, said = typed("sqlite.md", "Look at it first", **words)
    assert "Would import 6 flow runs" in said and "Would import 6 flow runs" in checked, said
    (played,) = typed("sqlite.md", "Import it", **words)
    assert "Imported 6 flow runs" in played, played
    assert host.check_output(PSQL, RUNS) == "3|2"
    script = "from prefect.blocks.system import Secret; print(Secret.load('token').get())"
    client = f"set -a; . /etc/prefect/prefect.env; {PREFECT}/bin/python -c {shlex.quote(script)}"
    assert host.check_output("PREFECT_HOME=/tmp/client sh -c %s", client).endswith("hush")

    host.check_output(PSQL, EMPTY)
    # The file and what is in it are the user's own, and so are the processes that read it.
    look = f"pgprefect import sqlite {FILE} --dry-run & while kill -0 $!; do ps -u old -o args=; sleep 0.3; done"
    seen = host.run("sh -c %s", look).stdout
    assert "prefect server database upgrade" in seen and "import-examine" in seen, seen
    _, said, *_ = typed("sqlite.md", "Import it on the host", **words)
    assert "Imported 6 flow runs" in said
    assert host.check_output(PSQL, RUNS) == "3|2"
    assert host.check_output(f"sha256sum {FILE}") == old_file
    assert host.check_output("ls -A /home/old/.prefect") == "prefect.db"
    assert not host.check_output("ls -d /var/tmp/pgprefect-import-* 2>/dev/null || true")
