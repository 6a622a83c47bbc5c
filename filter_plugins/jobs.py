"""Filters for the jobs that cron starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def enabled_jobs(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the jobs of the rows that are enabled, as pgprefect and its health check take them.

    A row has ``enabled``, the ``names`` of its jobs, their ``schedule`` (cron's file), and ``folder``, where they
    record their results, if that is not pgprefect's own; with ``tenants`` each job runs once for each tenant.
    """
    jobs: list[dict[str, Any]] = []
    for row in table:
        if not row["enabled"]:
            continue
        where = {key: row[key] for key in ("schedule", "folder") if key in row}
        for name in row["names"]:
            owners = [{"tenant": tenant} for tenant in row["tenants"]] if "tenants" in row else [{}]
            jobs += [{**owner, "name": name, **where} for owner in owners]
    return jobs


def spread(schedule: str, host: str, hosts: Sequence[str]) -> str:
    """Return the schedule of one of several hosts that do the same: a fixed minute is another one on each of them."""
    minute, _, rest = schedule.strip().partition(" ")
    place = hosts.index(host) if host in hosts else 0
    if not place or not minute.isdigit():
        return schedule
    return f"{(int(minute) + place * 60 // len(hosts)) % 60} {rest}"


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"enabled_jobs": enabled_jobs, "spread": spread}
