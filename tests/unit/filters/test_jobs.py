"""Jobs of cron."""

from __future__ import annotations

from filter_plugins.jobs import enabled_jobs


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
