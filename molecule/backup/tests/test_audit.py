"""The audit trail on a whole host: what the page types, what is recorded, and who can read it."""

from __future__ import annotations

import json
from typing import Any

from testinfra.host import Host

from tests.support.scenario import PSQL, Sql, Typed
from tests.support.waiting import wait_for

# A syslog server: writes what it gets.
LISTENER = """
import socket
server = socket.create_server(("127.0.0.1", 5514))
while True:
    connection, _ = server.accept()
    while content := connection.recv(65536):
        with open("/run/heard", "ab") as file:
            file.write(content)
"""


def trail(host: Host, options: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.check_output(f"pgprefect audit --json {options}"))["entries"]
    return found


def newest(host: Host) -> str:
    """The newest statement; PostgreSQL's collector writes a moment after it."""
    return str(trail(host, "--limit 1")[0]["statement"])


def test_the_documented_commands_show_a_grant_of_the_administrator(host: Host, typed: Typed) -> None:
    host.check_output(PSQL, "GRANT SELECT ON public.orders TO PUBLIC")
    host.check_output(PSQL, "REVOKE SELECT ON public.orders FROM PUBLIC")
    wait_for(lambda: newest(host).startswith("REVOKE"), lambda: newest(host))
    shown, _, listed = typed("audit.md", "Read it")
    assert "REVOKE SELECT ON public.orders FROM PUBLIC" in shown
    entry = json.loads(listed)["entries"][0]
    assert (entry["role"], entry["client"], entry["application"]) == ("postgres", "[local]", "psql")
    assert (entry["kind"], entry["command"], entry["database"]) == ("ROLE", "REVOKE", "mltrading")


def test_the_migration_and_the_application_are_in_the_trail(host: Host, sql: Sql) -> None:
    assert trail(host, "--role prefect_migrator")
    assert sql("mltrading_app", "UPDATE public.orders SET quantity = 11 WHERE id = 4711").rc == 0
    options = "--role mltrading_app --object public.orders --limit 1"
    wait_for(lambda: [entry["command"] for entry in trail(host, options)] == ["UPDATE"])
    (entry,) = trail(host, options)
    assert (entry["command"], entry["object"], entry["client"]) == ("UPDATE", "public.orders", "127.0.0.1")


def test_the_servers_daily_writes_are_not(host: Host) -> None:
    commands = {entry["command"] for entry in trail(host, "--role prefect_server --limit 1000")}
    assert commands <= {"DELETE"}


def test_only_root_and_postgres_can_read_it_and_debians_log_goes_on(host: Host, secrets: dict[str, str]) -> None:
    (log,) = host.check_output("ls /var/log/postgresql/*.json").split()
    assert (host.file(log).user, host.file(log).mode) == ("postgres", 0o640)
    assert host.run("runuser --user prefect -- cat %s", log).rc != 0
    content = host.check_output("cat /var/log/postgresql/*.json")
    assert [name for name, value in secrets.items() if value in content] == []
    assert "AUDIT: " in host.check_output("cat %s", log.replace(".json", ".log"))
    host.check_output("logrotate --force /etc/logrotate.d/postgresql-audit")
    host.check_output(PSQL, "COMMENT ON TABLE public.orders IS 'after the rotation'")
    wait_for(lambda: newest(host).endswith("IS 'after the rotation'"), lambda: newest(host))
    assert len(trail(host, "--role prefect_migrator --limit 5")) == 5


def test_each_entry_goes_to_a_syslog_server_also_after_it_was_away(host: Host) -> None:
    def heard() -> str:
        return str(host.check_output("cat /run/heard 2>/dev/null || true"))

    host.check_output(PSQL, "COMMENT ON TABLE public.orders IS 'nobody listens'")
    host.check_output("systemd-run --unit listener --collect python3 -c %s", LISTENER)
    try:
        wait_for(lambda: "nobody listens" in heard(), heard, seconds=90)
        host.check_output("systemctl restart postgresql-audit-copy")
        # PostgreSQL has lost nothing by it, such as its shared memory.
        host.check_output(PSQL, "SET max_parallel_workers_per_gather = 2; SELECT count(*) FROM prefect.log")
        host.check_output(PSQL, "COMMENT ON TABLE public.orders IS 'somebody listens'")
        wait_for(lambda: "somebody listens" in heard(), heard)
        assert [heard().count(f"{one} listens") for one in ("nobody", "somebody")] == [1, 1]
        lines = heard().splitlines()
        assert lines and not [line for line in lines if "postgresql-audit" in line and "AUDIT: " not in line]
    finally:
        host.check_output("systemctl stop listener; rm --force /run/heard")
    assert not host.service("rsyslog").is_running


def test_verify_has_nothing_to_say_about_it_until_it_is_switched_off(host: Host) -> None:
    assert "audit" not in host.run("pgprefect verify").stdout
    host.check_output(PSQL, "ALTER DATABASE mltrading RESET pgaudit.log")
    try:
        assert "audit_differs: database mltrading" in host.run("pgprefect verify").stdout
    finally:
        host.check_output(PSQL, "ALTER DATABASE mltrading SET pgaudit.log TO 'ddl, role, write'")
