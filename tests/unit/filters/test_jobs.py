"""Jobs of cron."""

from __future__ import annotations

from filter_plugins.jobs import enabled_jobs, spread


def test_jobs_of_the_rows_that_are_enabled() -> None:
    table = [
        {"names": ["backup", "drill"], "schedule": "/etc/cron.d/a", "folder": "/var/lib/b", "enabled": True},
        {"names": ["pitr"], "schedule": "/etc/cron.d/c", "folder": "/var/lib/d", "enabled": False},
        {"names": ["cleanup"], "schedule": "/etc/cron.d/e", "tenants": ["x", "y"], "enabled": True},
        {"names": ["cleanup"], "schedule": "/etc/cron.d/e", "tenants": [], "enabled": True},
    ]
    assert enabled_jobs(table) == [
        {"name": "backup", "schedule": "/etc/cron.d/a", "folder": "/var/lib/b"},
        {"name": "drill", "schedule": "/etc/cron.d/a", "folder": "/var/lib/b"},
        {"tenant": "x", "name": "cleanup", "schedule": "/etc/cron.d/e"},
        {"tenant": "y", "name": "cleanup", "schedule": "/etc/cron.d/e"},
    ]


def test_hosts_of_one_database_do_not_dump_at_the_same_minute() -> None:
    hosts = ["db1", "db2", "db3"]
    assert [spread("50 2 * * *", host, hosts) for host in hosts] == ["50 2 * * *", "10 2 * * *", "30 2 * * *"]
    assert spread("*/15 2 * * *", "db2", hosts) == "*/15 2 * * *"
    assert spread("00 2 * * *", "box", ["box"]) == spread("00 2 * * *", "box", []) == "00 2 * * *"
