"""Every variable that an inventory may set has a form, and whatever does not have it is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugin_utils.inventory_checks.specification import read
from plugin_utils.inventory_checks.table import FORMS, MAY_REPEAT, NEED_AN_ENTRY, UNIQUE
from plugin_utils.inventory_checks.values import check_value, rows
from tests.support.inventories import run
from tests.support.project import ROOT

SPECIFICATION = read(ROOT)
FREE = {name: SPECIFICATION.options[name] for name in SPECIFICATION.free}

NO_NUMBER = ["", "x", "1 2", "1\n2", "0x10", "1e3", "٣", "{{ 1 }}", True, 1.5, [1], {"a": 1}, -(10**9), 10**12, 10**30]
CONTROL = ["a\nb", "a\tb", "a\0b", "a\rb", "a\x1b[31m", "a\x7f", "a\u2028b", "a\u202eb", "\n"]
NO_TEXT = [True, ["a"], {"a": "b"}]
# What a text of a form of its own refuses, too; a free text takes any of these.
TRICKS = [
    "",
    " ",
    "a b; touch /x",
    "$(id)",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "../../etc/passwd",
    "x" * 10_000,
    "-x",
    "ä, ö",
]
# Texts that may be whatever is printable, and why.
FREE_TEXT = {
    "prefect_backup_copy_known_hosts": "lines as ssh-keyscan prints them",
    "pgbackrest_repository.known_hosts": "lines as ssh-keyscan prints them",
    "pgbackrest_restore_point": "PostgreSQL takes any name",
    "prefect_database_login_password": "a secret",
    "database_administrator.password": "a secret",
    "prefect_backup_copy_secret": "a secret",
    "pgbackrest_s3_key": "a secret",
    "pgbackrest_s3_key_secret": "a secret",
    "prefect_tenants[].deployments[].tags": "Prefect takes any text",
    "prefect_tenants[].automations[].tags": "Prefect takes any text",
    "prefect_tenants[].variables[].tags": "Prefect takes any text",
    "prefect_tenants[].variables[].value": "a value of JSON",
    "prefect_tenants[].database_events[].condition": "SQL of the site's own",
    "prefect_tenants[].git_credentials[].token": "a secret",
    "prefect_tenants[].docker_registries[].password": "a secret",
    "prefect_prometheus_mail[].username": "a mail server takes any text",
    "prefect_prometheus_mail[].password": "a secret",
}
LINES = {row for row, form in FORMS.items() if form.lines}
# What is allowed although it looks like one of these.
ALLOWED: dict[str, list[Any]] = {
    **{row: [""] for row, form in FORMS.items() if form.empty},
    **{row: ["", " "] for row in FORMS if row.endswith("description")},
    "prefect_tenants[].variables[].value": [None, *NO_TEXT],
}
# PostgreSQL's and Prefect's names are texts of nearly any kind, in quotes wherever they are used.
ANY_NAME = ["a b; touch /x", "$(id)", "{{ 7 * 7 }}", "{% raw %}", "-x", "ä, ö", "../../etc/passwd", "", " "]
NAMES = {
    row
    for row, form in FORMS.items()
    if "PostgreSQL's for a" in form.allowed or "a name of at most 200" in form.allowed
}


def leaves(row: str, spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row of the table with its argument spec."""
    if "options" not in spec:
        yield row, spec
        return
    inner = f"{row}[]" if spec["type"] == "list" else row
    for key, option in spec["options"].items():
        yield from leaves(f"{inner}.{key}", option)


LEAVES = dict(leaf for name, spec in FREE.items() for leaf in leaves(name, spec))


def hostile(row: str, spec: Mapping[str, Any]) -> list[Any]:
    """What a variable must refuse, by its type."""
    kind = spec.get("elements" if spec.get("type") == "list" else "type", "str")
    if kind in ("int", "float"):
        return [value for value in NO_NUMBER if not (kind == "float" and value in (1.5, "1e3"))]
    if kind == "bool":
        return ["", "perhaps", 2, -1, "true\n", [True], {"a": True}, "{{ true }}"]
    if kind == "dict":
        return ["x", [1], True, 7, "{{ {} }}", {"a\nb": 1}, {"a": "x\0y"}, {"a": ["\x1b"]}]
    texts = [text for text in CONTROL if row not in LINES or not set(text) <= set("ab\n\t")]
    if row.endswith("description") or row in FREE_TEXT:
        return [*NO_TEXT, *texts]
    return [*NO_TEXT, *texts, *(text for text in TRICKS if row not in NAMES or text not in ANY_NAME)]


CASES = [
    (row, value)
    for row, spec in LEAVES.items()
    for value in [None, *hostile(row, spec)]
    if value not in ALLOWED.get(row, ())
]


def refusals(row: str, value: Any) -> list[str]:
    """Check a value of a row of the table, as an entry of a list where it is one's."""
    spec = LEAVES[row]
    listed = spec.get("type") == "list"
    return list(check_value(row, [value] if listed and value is not None else value, spec, row))


def test_every_variable_has_a_form() -> None:
    assert {row for name, spec in FREE.items() for row in rows(name, spec)} == set(FORMS)
    assert {*NEED_AN_ENTRY, *MAY_REPEAT} <= {*LEAVES, *FREE}
    lists = [row for row in (*FREE, *FORMS) if row in UNIQUE]
    assert all(form.allowed for form in FORMS.values()) and lists


def test_every_default_has_its_form() -> None:
    defaults: dict[str, Any] = {}
    for path in ROOT.glob("roles/*/defaults/main.yml"):
        defaults |= yaml.safe_load(path.read_text()) or {}
    found = {name: value for name, value in defaults.items() if name in FREE and "{{" not in str(value)}
    assert len(found) > 50
    assert [mistake for name, value in found.items() for mistake in check_value(name, value, FREE[name])] == []
    said = {name: spec["default"] for name, spec in FREE.items() if spec.get("default") is not None}
    assert [mistake for name, value in said.items() for mistake in check_value(name, value, FREE[name])] == []


def test_hostile_values_are_refused_by_the_name_of_their_variable() -> None:
    accepted = [(row, value) for row, value in CASES if not refusals(row, value)]
    assert accepted == []
    for row, value in CASES:
        for refusal in refusals(row, value):
            assert (refusal.startswith(row) and "must be" in refusal) or "unknown key" in refusal, refusal
            assert "inventory" in refusal or "unknown key" in refusal, refusal
            assert len(refusal) < 1000, refusal


def test_each_list_refuses_what_is_none_and_entries_that_are_given_twice() -> None:
    for row, spec in LEAVES.items():
        if spec.get("type") == "list":
            for value in (None, "x", 7, {"a": 1}):
                assert next(check_value(row, value, spec)).startswith(row), (row, value)
            assert bool(list(check_value(row, [], spec))) == (row in NEED_AN_ENTRY)
            twice = [mistake for mistake in check_value(row, ["x", "x"], spec) if "the same entry" in mistake]
            assert len(twice) == (row not in MAY_REPEAT), row


WRONG: dict[str, list[Any]] = {
    "app_database": ["x" * 64, "ä" * 32],
    "app_login": ["../evil", "pg_app", "a,b", "public"],
    "app_owner": ["pg_owner", "none"],
    "app_schema": ["shop"],
    "app_networks": ["10.0.0.0/33", "10.0.0.1/8", "10.0.0.1/8 trust", "0.0.0.0/0 all", "all", "fe80::%1/64", 167772160],
    "database_host": ["-x", "a_b", "999.1.1.1", "1.2.3", "http://x", "a..b", "a" * 64, "::1]"],
    "database_port": [0, -1, 80, 65536],
    "database_cluster": ["Main", "a-b", "../main", "a b", "a" * 32],
    "database_ca_file": ["ca.pem", "/etc/ssl/", "/etc/../x", "//x", "/root/ca.pem", "/tmp/ca.pem"],
    "private_address": ["host-1", "999.1.1.1", "10.0.0.1/8", "fe80::1%eth0"],
    "backup_directory": [
        "/",
        "/etc",
        "/home",
        "/var/lib",
        "/var/lib/",
        "/var/backups",
        "/var/./lib",
        "/srv",
        "/tmp/x",
        "/etc/x/y",
        "/var/lib/postgresql/15/main",
        "/usr/share/x",
        "backups",
        "/srv/../etc/x",
        "/proc/x/y",
        "//srv/x",
        "/var/www",
        "/opt/prefect/flows/sets",
        "/var/lib/prefect/sets",
    ],
    "prefect_flows": ["/nonexistent", "/", "/etc", "/usr/lib/python3", "flows", "~/flows"],
    "prefect_version": ["9.9.9", "latest", "../uv", "3.9.1 "],
    "prefect_ui_url": [
        "javascript:alert(1)",
        "http://x:abc",
        "http://x:99999",
        "http://x:0",
        "http://x:",
        "http://",
        "//x",
        "ftp://x",
        "http://a b",
        "http://[::1",
        "http://u:p@x",
        "http://x?y",
        "http://x#y",
        "http://999.1.1.1",
        "http:x",
        "http://flows.example.com/prefect",
    ],
    "prefect_tenants[].api_url": [
        "https://flows.example.com",
        "flows.example.com/api",
        "https://x/api?y",
        "https://x/apis",
    ],
    "prefect_bind_address": ["999.1.1.1", "10.0.0.0/8", "*", "example.com", "::1%lo"],
    "prefect_worker_memory_max": [
        "lots",
        "lots\nExecStartPre=+/bin/touch /root/x",
        "0",
        "-1G",
        "4 G",
        "4GB",
        "1K",
        "0%",
        "101%",
        "16E",
    ],
    "prefect_worker_drain_seconds": [-1, 0, 10**7],
    "prefect_server_ready_seconds": [-1, 0],
    "prefect_server_pool_size": [0, 5000],
    "prefect_server_processes": [0, 65, "all"],
    "prefect_redis_program": ["redis-server", "memcached"],
    "prefect_redis_memory_mb": [0, "1G", 10**7],
    "prefect_server_tasks_max": [0, 1],
    "prefect_firewall_enabled": ["perhaps"],
    "prefect_firewall_open[].port": [0, 65536, "80-90", "ssh"],
    "prefect_firewall_open[].protocol": ["sctp", "TCP"],
    "prefect_firewall_open[].networks": ["10.0.0.1/8", "all", "0.0.0.0/0 accept"],
    "prefect_firewall_closed": [0, 70000, "http"],
    "prefect_firewall_ssh_networks": ["10.0.0.0/33", "office"],
    "prefect_retention_hour": [24, -1],
    "prefect_retention_minute": [60, -1],
    "prefect_retention_stagger_minutes": [0, 1441],
    "pgbackrest_keep_full": [0, 1001],
    "pgbackrest_archive_timeout_s": [0, 86400],
    "pgbackrest_restore_time": ["yesterday", "2026-01-31 15:04:05", "2026-02-31 15:04:05+00:00"],
    "pgbackrest_sftp_key": ["secret", "ssh-ed25519 AAAA"],
    "prefect_backup_schedule": [
        "99 99 * * *",
        "daily",
        "@daily",
        "0 2 * *",
        "0 2 * * * *",
        "0 2 * * mon",
        "0 2 * * *\n",
        "* * * * * root x",
        "5-1 * * * *",
        "1/5 * * * *",
        "*/0 * * * *",
        "0-60 * * * *",
        "0 0 0 * *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "1, * * * *",
        "0  2 * * *",
    ],
    "prefect_backup_age_recipient": ["age1", "age1" + "q" * 58, "ssh-ed25519 AAAA", "AGE-SECRET-KEY-1" + "Q" * 58],
    "prefect_backup_copy.target": ["-x:y", "host", "host::module", "s3://x", "a b:c", "x:"],
    "prefect_backup_copy.tool": ["scp"],
    "prefect_backup_kinds": ["all"],
    "prefect_backup_keep.daily": [-1],
    "prefect_backup_restore_set": ["../20260131T020000Z", "newest"],
    "prefect_backup_restore_table": ["flow", ".x", "x."],
    "prefect_monitoring_statistics_days": [0, -1, "nan", "inf"],
    "postgresql_audit_copy_to": ["logs", "logs.example.com:", "a b:514", 'x":514', "-x:514", 514],
    "prefect_metrics_directory": ["metrics", "/var/lib/a b", "/a/../b", "/a%n", "/"],
    "prefect_metrics_seconds": [0, 4, 121],
    "prefect_prometheus_retention": ["30", "1m", "0d", "-1d", "30d --x"],
    "prefect_prometheus_retention_size": ["5", "5G", "0GB", "5GB --x"],
    "prefect_prometheus_webhooks": ["example.com", "ftp://example.com/x", "http://a b", "https://"],
    "prefect_prometheus_mail[].to": ["on-call", "a@b\nBcc: c@d", "A <a@b.c>"],
    "prefect_prometheus_mail[].smarthost": ["mail.example.com", "mail.example.com:smtp", "-x:25"],
    "site_other_variables": ["a-b", "1"],
    "prefect_tenants[].name": ["Prefect", "a-b", "1a", "a" * 25],
    "prefect_tenants[].port": [80, 0, 65536],
    "prefect_tenants[].database_events[].name": ["Orders", "a-b", "event", "keep", "a" * 25],
    "prefect_tenants[].database_events[].operations": ["truncate", "INSERT"],
    "prefect_tenants[].database_events[].values": [{"a": []}, {"a": ["b", ""]}, {"a": {"b": "c"}}, {"a": "x" * 64}],
    "prefect_tenants[].database_events[].deployment": ["flow", "a/b/c", "/b"],
    "prefect_tenants[].database_events[].event": ["Orders", "prefect.flow-run.Failed", ".a", "a" * 201],
    "prefect_tenants[].git_credentials[].name": ["Team", "a_b", "-a", "a.b"],
    "prefect_tenants[].git_credentials[].known_hosts": [
        "git.example.com",
        "# git.example.com:22 SSH-2.0",
        "a ssh-rsa ?",
    ],
    "prefect_tenants[].deployments[].source.git": [
        "http://git.example.com/x.git",
        "git://git.example.com/x.git",
        "file:///srv/x.git",
        "/srv/x.git",
        "ext::sh -c id",
        "https://user:pass@git.example.com/x.git",
        "https://token@git.example.com/x.git",
        "ssh://git:pass@git.example.com/x.git",
        "ssh://-oProxyCommand=id/x.git",
        "git@-oProxyCommand=id:x.git",
        "git@git.example.com:-x.git",
        "--upload-pack=id",
        "https://git.example.com",
        "https://git.example.com/x.git?token=s3cret",
        "https://git.example.com/%0ahost=x",
    ],
    "prefect_tenants[].deployments[].source.ref": [
        "--upload-pack=id",
        "a..b",
        "a b",
        "a:b",
        "a~1",
        "main^",
        "*",
        "a//b",
        "a.lock",
        "@{-1}",
    ],
    "prefect_tenants[].schema": [
        "public",
        "extensions",
        "a,b",
        "a=b",
        "ä" * 28,
        "a/b",
        "pg_x",
        "information_schema",
        "a=b".replace("=", "/"),
    ],
    "prefect_tenants[].event_retention": ["P0D", "PT0S", "P0W", "P", "PT", "7", 7, "P1Y", "-P1D", "P1.5D", "P9999999D"],
    "prefect_tenants[].variables[].name": ["A", "a b", "ä", "a.b", "a" * 256],
    "prefect_tenants[].variables[].value": ["x" * 4999, "ä" * 2500, ["x"] * 2000, float("nan"), {"a": float("inf")}],
    "prefect_tenants[].concurrency_limits[].name": ["a/b", "deployment:1"],
    "prefect_tenants[].concurrency_limits[].limit": [-1],
    "prefect_tenants[].concurrency_limits[].slot_decay_per_second": [-0.5, "nan", "inf", 10**7],
    "prefect_tenants[].blocks[].name": ["A", "a_b", "ä", "a" * 201],
    "prefect_tenants[].blocks[].type": ["Slack Webhook", "a/b"],
    "prefect_tenants[].automations[].trigger": [
        {},
        {"posture": "Reactive"},
        {"posture": "Reactive", "expect": ["a"], "wihtin": 5},
        {"posture": "Reactive", "expect": ["a\x1b[31m"]},
    ],
    "prefect_tenants[].automations[].actions": [
        {},
        {"type": "run-deployment"},
        {"type": "do-nothing", "x": 1},
        {"type": "run-deployment", "deployment_id": "3b2c4a52-0d6c-4d5e-9c4f-6e4f2a8a4b11"},
    ],
    "prefect_tenants[].work_pools[].name": ["prefect-x", "a/b", "a%b"],
    "prefect_tenants[].work_pools[].concurrency_limit": [-4, -2],
    "prefect_tenants[].work_pools[].workers": [
        -1,
        101,
        True,
        "many",
        [],
        {},
        {"min": 1},
        {"max": 0},
        {"min": -1, "max": 2},
        {"min": 3, "max": 2},
        {"min": 0, "max": None},
        {"min": 0, "max": [1]},
        {"max": 2, "most": 3},
    ],
    "prefect_tenants[].work_pools[].libraries": ["gpu", "/gpu/", "/srv/../gpu", "/srv//gpu", "/srv/GPU", "/srv/flows"],
    "prefect_tenants[].work_pools[].queues[].priority": [0, -1],
    "prefect_tenants[].deployments[].parameters": [{"a": float("nan")}, {"a": [float("inf")]}, {"a": {1: "\x00"}}],
    "prefect_tenants[].deployments[].concurrency_limit": [0, -4],
    "prefect_tenants[].deployments[].entrypoint": [
        "../../etc/passwd:x",
        "nope.py",
        "/etc/x.py:x",
        "a.py:b.c",
        "a:b",
        "a.py:",
    ],
    "prefect_tenants[].deployments[].schedules[].cron": [
        "61 25 * * *",
        "@daily",
        "0 0 * * * *",
        "R * * * *",
        "H 2 * * *",
        "never",
    ],
    "prefect_tenants[].deployments[].schedules[].interval": [-5, 0, 10**10],
    "prefect_tenants[].deployments[].schedules[].rrule": [
        "DAILY",
        "FREQ=NEVER",
        "FREQ=DAILY;INTERVAL=x",
        "FREQ=DAILY" + ";" * 7000,
    ],
    "prefect_tenants[].deployments[].schedules[].timezone": ["Mars/Phobos", "CET+1", "../etc/passwd"],
}
RIGHT: dict[str, list[Any]] = {
    "app_database": ["mltrading", "My-Shop.2", "ä" * 31],
    "app_networks": ["10.0.0.0/8", "2001:db8::/48", "192.0.2.7", "0.0.0.0/0"],
    "database_host": ["db-1.example.com", "10.0.0.1", "2001:db8::1", "db"],
    "database_port": [5432, "5432"],
    "database_cluster": ["main", "prefect_2"],
    "backup_directory": [
        "/var/backups/prefect",
        "/srv/sets",
        "/home/backup/sets",
        "/mnt/nas/sets/",
        "/backups/prefect",
    ],
    "prefect_flows": [str(ROOT / "flows"), f"{ROOT}/roles/prefect/../../flows/"],
    "prefect_version": ["3.9.1"],
    "prefect_ui_url": [
        "http://127.0.0.1",
        "https://flows.example.com:8443/",
        "http://[2001:db8::1]:4200",
        "https://flows.example.com/prefect",
        "http://flows.example.com:8080/prefect",
    ],
    "prefect_tenants[].api_url": ["https://flows.example.com/api", "http://[2001:db8::1]:8080/a/api/"],
    "prefect_bind_address": ["0.0.0.0", "::", "127.0.0.1", "10.0.0.7", "2001:db8::7", "localhost"],
    "prefect_worker_memory_max": ["4G", "1.5G", "512M", "50%", "infinity", "4294967296"],
    "prefect_backup_schedule": ["0 2 * * *", "*/15 0,12 1-7 * 0", "0 0 30 2 *", "0-30/10 * * * 1-5", "0 0 * * 7"],
    "prefect_backup_age_recipient": ["age1cxcdg5c8h873em4yf3m665n0fvlqwlcwq9zu0335vceamf0wyg8sdycypf", ""],
    "prefect_backup_copy.target": ["backup@vault.example.org:/srv/prefect", "store:bucket/prefect"],
    "prefect_backup_restore_table": ["public.orders", '"My".orders'],
    "prefect_retention_enabled": [True, "false", "no", 1],
    "pgbackrest_restore_time": ["2026-01-31 15:04:05+00:00", "2026-01-31T15:04:05Z", ""],
    "prefect_monitoring_statistics_days": [0.5, 30, "7"],
    "postgresql_audit_copy_to": ["", "logs.example.com:514", "192.0.2.7:6514"],
    "prefect_metrics_directory": ["", "/var/lib/prometheus/node-exporter"],
    "prefect_prometheus_webhooks": ["http://127.0.0.1:9000/hook?token=a", "https://[2001:db8::1]/x"],
    "prefect_prometheus_mail[].to": ["on-call@example.com"],
    "prefect_tenants[].event_retention": ["P90D", "PT36H", "P1DT1S", "P4W"],
    "prefect_tenants[].work_pools[].libraries": ["/srv/gpu", "/srv/my site/inventory/mine/torch-2_1"],
    "prefect_tenants[].work_pools[].workers": [0, "3", {"max": 4}, {"min": 2, "max": 2}, {"min": "0", "max": "8"}],
    "prefect_tenants[].deployments[].description": ["Two\nlines", ""],
    "prefect_tenants[].deployments[].parameters": [{"sql": "SELECT 1\n", "none": None, "list": [1, {"a": True}]}, {}],
    "prefect_tenants[].deployments[].concurrency_limit": [1, -1],
    "prefect_tenants[].deployments[].schedules[].cron": ["30 17 * * 1-5", "0 0 * * mon", "0 0 30 2 *"],
    "prefect_tenants[].deployments[].schedules[].rrule": [
        "FREQ=DAILY;BYHOUR=6",
        "DTSTART:20260101T000000\nRRULE:FREQ=DAILY",
    ],
    "prefect_tenants[].deployments[].schedules[].timezone": ["UTC", "America/New_York"],
}


@pytest.mark.parametrize("row", WRONG)
def test_values_that_are_wrong_in_a_way_of_their_own(row: str) -> None:
    assert [value for value in WRONG[row] if not refusals(row, value)] == []


@pytest.mark.parametrize("row", RIGHT)
def test_values_that_are_right(row: str) -> None:
    assert [mistake for value in RIGHT[row] for mistake in refusals(row, value)] == []


def test_a_folder_of_flows_has_text_only(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text("")
    (tmp_path / ".git").write_bytes(b"\xff")
    assert refusals("prefect_flows", str(tmp_path)) == []
    (tmp_path / "prices.parquet").write_bytes(b"PAR1\xff\x00")
    assert "prices.parquet is no text in UTF-8" in refusals("prefect_flows", str(tmp_path))[0]
    with (tmp_path / "prices.parquet").open("wb") as file:
        file.truncate(30 * 1024**2)
    assert "it has 30 MB, and at most 20" in refusals("prefect_flows", str(tmp_path))[0]


MAPPINGS: list[tuple[str, Any, str]] = [
    ("prefect_monitoring_thresholds", {"late_s": "abc"}, "prefect_monitoring_thresholds.late_s: "),
    ("prefect_monitoring_thresholds", {"late_s": {"warning": -1}}, "prefect_monitoring_thresholds.late_s: "),
    ("prefect_monitoring_thresholds", {"late_s": {"warn": 1}}, "it takes warning and critical"),
    ("prefect_monitoring_thresholds", {"late": {}}, "late: unknown key; did you mean late_s?"),
    ("prefect_retention_policy", {"days_too_keep": 1}, "days_too_keep: unknown key; did you mean days_to_keep?"),
    ("prefect_retention_policy", {"days_to_keep": -1, "batch_size": 0}, "prefect_retention_policy.batch_size: "),
    ("prefect_retention_policy", {"days_to_keep": 0}, "allow_zero_days says that this is meant"),
    ("prefect_retention_policy", {"protected_tags": ["a\nb"]}, "protected_tags: it has a control character"),
    ("prefect_retention_policy", {"batch_size": 10**300}, "prefect_retention_policy.batch_size: "),
    ("prefect_backup_keep", {"yearly": 1}, "yearly: unknown key"),
    ("prefect_database_connection_limits", {"app": 0}, "prefect_database_connection_limits.app is 0"),
    ("prefect_database_connection_limits", {"app": None}, "prefect_database_connection_limits.app is null"),
    ("prefect_secrets", {"mltrading_app": None}, "prefect_secrets.mltrading_app must be"),
    ("prefect_secrets", {"mltrading_app": "a\nb"}, "it has a control character"),
    ("prefect_secrets", {"mltrading_app": ["a"]}, "prefect_secrets.mltrading_app must be"),
    ("app_events_columns", {"kind": "x"}, "app_events_columns, its key is 'kind'"),
    ("app_events_columns", {"status": "x" * 64}, "app_events_columns.status is"),
    ("postgresql_settings", {"port": 1}, "set database_port"),
    ("postgresql_settings", {"Data_Directory": "/x"}, "the site depends on it"),
    ("postgresql_settings", {"work_mem = 1\nfsync": 1}, "postgresql_settings, its key"),
    ("postgresql_settings", {"work_mem": "1\nfsync = off"}, "postgresql_settings.work_mem is"),
    ("postgresql_settings", {"work_mem": None}, "postgresql_settings.work_mem is null"),
    ("postgresql_settings", {"work_mem": [1]}, "it is no single value"),
    ("postgresql_settings", {"include": "/etc/passwd"}, "it is no setting"),
    ("postgresql_settings", {"pgaudit.log": "none"}, "set postgresql_audit"),
    ("postgresql_audit_tables", ["orders"], "postgresql_audit_tables[0] is 'orders'"),
]


@pytest.mark.parametrize(("name", "value", "message"), MAPPINGS)
def test_keys_and_values_of_mappings(name: str, value: Any, message: str) -> None:
    mistakes = list(check_value(name, value, FREE[name]))
    assert message in str(mistakes), mistakes


def test_a_secret_is_never_shown() -> None:
    secrets = [row for row, spec in LEAVES.items() if spec.get("no_log")] + ["prefect_database_login_password"]
    assert len(secrets) > 4
    for row in secrets:
        value: Any = {"a": "s3\ncret\0", "s3cret": ["s3cret"]} if LEAVES[row]["type"] == "dict" else "s3\ncret\0"
        mistakes = refusals(row, value)
        assert mistakes and "cret" not in str(mistakes).replace(row, "").replace("s3cret must", ""), mistakes


DAILY = {"name": "a", "flow": "f", "entrypoint": "a.py:f", "work_pool": "default"}
REPORT = {
    "name": "report",
    "trigger": {"posture": "Reactive", "expect": ["order.created"]},
    "actions": [{"type": "run-deployment", "deployment": "f/a"}],
}
OUTSIDE = {"name": "a", "flow": "f", "entrypoint": "../../etc/passwd:x"}
PREFECT = {"name": "prefect", "port": 4200}


def scaled(**workers: Any) -> list[dict[str, Any]]:
    return [{**PREFECT, "work_pools": [{"name": "default", "workers": workers}]}]


TENANTS: list[tuple[Any, str]] = [
    (None, "prefect_tenants is null"),
    ([], "prefect_tenants is []"),
    ([PREFECT, PREFECT], "prefect_tenants[1]: it has the same name"),
    ([PREFECT, {"name": "b", "port": "4200"}], "prefect_tenants[1]: it has the same port"),
    ([{**PREFECT, "work_pools": [{"name": "default"}, {"name": "default"}]}], "work_pools[1]: it has the same name"),
    ([{**PREFECT, "work_pools": [{"name": "x", "queues": [{"name": "q"}, {"name": "q"}]}]}], "queues[1]: it has"),
    ([{**PREFECT, "deployments": None}], "prefect_tenants[0].deployments is null"),
    ([{**PREFECT, "variables": [{"name": "a", "value": 1}] * 2}], "variables[1]: it has the same name"),
    ([{**PREFECT, "variables": [{"name": "a"}]}], "variables[0].value: it is missing"),
    ([{**PREFECT, "concurrency_limits": [{"name": "a", "limit": 1}] * 2}], "limits[1]: it has the same name"),
    ([{**PREFECT, "blocks": [{"name": "a", "type": "secret"}] * 2}], "blocks[1]: it has the same type and name"),
    ([{**PREFECT, "automations": [REPORT] * 2}], "automations[1]: it has the same name"),
    ([{**PREFECT, "automations": [{**REPORT, "actions": []}]}], "automations[0].actions is []"),
    (
        [{**PREFECT, "automations": [{**REPORT, "trigger": {"posture": "Reactive", "expekt": []}}]}],
        "prefect_tenants[0].automations[0].trigger.expekt: unknown key. Known keys: type, posture, expect",
    ),
    ([{**PREFECT, "deployments": "all"}], "prefect_tenants[0].deployments is 'all'"),
    ([{**PREFECT, "deployments": [DAILY, DAILY]}], "deployments[1]: it has the same flow and name"),
    (
        [{**PREFECT, "deployments": [{**DAILY, "schedules": [{"slug": "s", "interval": 5}] * 2}]}],
        "prefect_tenants[0].deployments[0].schedules[1]: it has the same slug",
    ),
    ([{**PREFECT, "work_pools": [{"name": "a"}, {"name": "b", "concurrency_limit": -4}]}], "work_pools[1].concurr"),
    (scaled(min=3, max=2), "work_pools[0].workers.min is 3, but it must be at most 2, its max, in"),
    (scaled(min=1), "work_pools[0].workers.max is missing, but it must be a whole number from 1 to 100"),
    (scaled(max=2, most=3), "work_pools[0].workers.most: unknown key. Known keys: min, max."),
    (scaled(max=0), "work_pools[0].workers.max is 0, but it must be a whole number from 1 to 100"),
]


@pytest.mark.parametrize(("value", "message"), TENANTS)
def test_lists_inside_tenants(value: Any, message: str) -> None:
    mistakes = list(check_value("prefect_tenants", value, FREE["prefect_tenants"]))
    assert message in str(mistakes), mistakes


# Each line was accepted once: what it sets, and the beginning of its refusal.
SITES: list[tuple[dict[str, Any], list[str]]] = [
    ({"backup_directory": "/var/lib"}, ["backup_directory is '/var/lib'"]),
    ({"app_networks": ["10.0.0.0/33"]}, ["app_networks[0] is '10.0.0.0/33'"]),
    ({"app_networks": ["10.0.0.1/8 trust"]}, ["app_networks[0] is '10.0.0.1/8 trust'"]),
    ({"prefect_flows": "/nonexistent"}, ["prefect_flows is '/nonexistent'"]),
    ({"prefect_backup_schedule": "99 99 * * *"}, ["prefect_backup_schedule is '99 99 * * *'"]),
    ({"prefect_worker_memory_max": "lots\nExecStartPre=+/bin/touch /root/x"}, ["prefect_worker_memory_max is"]),
    ({"prefect_worker_drain_seconds": -1}, ["prefect_worker_drain_seconds is -1"]),
    ({"prefect_server_ready_seconds": 0}, ["prefect_server_ready_seconds is 0"]),
    (
        {"prefect_server_health_thresholds": {"late_s": "abc"}},
        ["nothing reads this variable; it is called prefect_monitoring_thresholds now."],
    ),
    (
        {"prefect_server_retention": {"days_too_keep": 1}},
        ["nothing reads this variable; it is called prefect_retention_policy now."],
    ),
    ({"prefect_monitoring_thresholds": {"late_s": "abc"}}, ["prefect_monitoring_thresholds.late_s: "]),
    ({"prefect_retention_policy": {"days_too_keep": 1}}, ["prefect_retention_policy.days_too_keep: unknown key"]),
    ({"prefect_bind_address": "999.1.1.1"}, ["prefect_bind_address is '999.1.1.1'"]),
    ({"prefect_ui_url": "javascript:alert(1)"}, ["prefect_ui_url is 'javascript:alert(1)'"]),
    ({"prefect_ui_url": "http://x:abc"}, ["prefect_ui_url is 'http://x:abc'"]),
    ({"app_database": "evil\nname"}, ["app_database is 'evil\\nname'"]),
    ({"prefect_version": None}, ["prefect_version is null"]),
    ({"prefect_secrets": {"mltrading_app": None}}, ["prefect_secrets.mltrading_app must be"]),
    ({"prefect_tenants": [{**PREFECT, "event_retention": "P0D"}]}, ["prefect_tenants[0].event_retention is 'P0D'"]),
    (
        {"prefect_tenants": [{**PREFECT, "work_pools": [{"name": "default"}, {"name": "default"}]}]},
        ["prefect_tenants[0].work_pools[1]: it has the same name as prefect_tenants[0].work_pools[0]"],
    ),
    (
        {"prefect_tenants": [{**PREFECT, "work_pools": [{"name": "default", "concurrency_limit": -4}]}]},
        ["prefect_tenants[0].work_pools[0].concurrency_limit is -4"],
    ),
    ({"prefect_tenants": [{**PREFECT, "deployments": None}]}, ["prefect_tenants[0].deployments is null"]),
    (
        {
            "prefect_tenants": [
                {
                    **PREFECT,
                    "git_credentials": [{"name": "team", "token": "x"}],
                    "blocks": [{"name": "git-team", "type": "secret", "secrets": {"value": "s3cret"}}],
                }
            ]
        },
        ["prefect_tenants[0].blocks[0].name is 'git-team', the block of one of the tenant's git_credentials"],
    ),
    ({"prefect_tenants": [{**PREFECT, "deployments": "all"}]}, ["prefect_tenants[0].deployments is 'all'"]),
    (
        {"prefect_tenants": [{**PREFECT, "deployments": [OUTSIDE]}]},
        ["deployments[0].entrypoint is '../../etc/passwd:x'", "deployments[0].work_pool: it is missing"],
    ),
    (
        {
            "prefect_tenants": [
                {
                    **PREFECT,
                    "deployments": [
                        {
                            "name": "a",
                            "flow": "f",
                            "entrypoint": "nope.py:x",
                            "work_pool": "default",
                            "schedules": [
                                {"slug": "s", "cron": "61 25 * * *", "timezone": "Mars/Phobos"},
                                {"slug": "s", "interval": -5},
                            ],
                        }
                    ],
                }
            ]
        },
        [
            "deployments[0].entrypoint: nope.py:x: nope.py is not in the folder of the flows",
            "deployments[0].schedules[0].cron is '61 25 * * *'",
            "deployments[0].schedules[0].timezone is 'Mars/Phobos'",
            "deployments[0].schedules[1].interval is -5",
            "deployments[0].schedules[1]: it has the same slug",
        ],
    ),
    (
        {"prefect_tenants": [{**PREFECT, "deployments": [{**DAILY, "entrypoint": "nope.py:x"}]}]},
        ["prefect_tenants[0].deployments[0].entrypoint: nope.py:x: nope.py is not in the folder of the flows"],
    ),
    (
        {
            "app_databse": "x",
            "prefect_tenant": [],
            "prefect_retention_enable": False,
            "prefect_server_bind_address": "127.0.0.9",
        },
        [
            "nothing reads this variable; did you mean app_database?",
            "nothing reads this variable; did you mean prefect_tenants?",
            "nothing reads this variable; did you mean prefect_retention_enabled?",
            "the playbooks set this variable. Set prefect_bind_address instead.",
        ],
    ),
    ({"prefct_tenants": []}, ["nothing of this site reads this variable; did you mean prefect_tenants?"]),
    ({"__site_database": "x"}, ["the playbooks set this variable. Set app_database instead."]),
    ({"app_database": "{{ no_such_variable }}"}, ["app_database (host line30): it cannot be worked out"]),
    ({"prefect_database_extensions_schema": "ext"}, ["but prefect_server_extensions_schema is 'extensions'"]),
    ({"prefect_secrets": {"mltrading_ap": "x"}}, ["nothing reads this secret; did you mean mltrading_app?"]),
    ({"prefect_secrets": {"prefect_api": "pässword"}}, ["prefect_secrets.prefect_api must be printable ASCII"]),
    # The port of a-default-1.
    ({"prefect_tenants": [{"name": "a"}], "database_port": 8162}, ["database_port is 8162, which the health"]),
    ({"pgbackrest_repository": {"path": "/srv"}}, ["pgbackrest_repository.path is '/srv'"]),
    ({"prefect_tenants": [{"name": "a", "port": 8100}], "database_port": 8100}, ["port is 8100, which PostgreSQL"]),
]


def test_sites_that_were_accepted_once(tmp_path: Path) -> None:
    """All of them in one inventory, one line a host: every mistake is listed at once."""
    hosts = {f"line{number}": variables for number, (variables, _) in enumerate(SITES)}
    groups = ("postgresql", "prefect_server", "prefect_worker")
    status, said = run(tmp_path, {group: {"hosts": hosts} for group in groups})
    assert status != 0
    assert [message for _, messages in SITES for message in messages if " ".join(message.split()) not in said] == []
    for number, (variables, _) in enumerate(SITES):
        assert all(name.startswith("prefect_") or name in said for name in variables), number
    assert "changed=0" in said and json.dumps("s3cret") not in said
