"""Metrics of the database and of its server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from ..core.sql import Statement
from ..health import probes
from ..health.probes import Ask, Finding
from ..health.thresholds import Thresholds
from ..site.configuration import Tenant
from .exposition import COUNTER, Metric, Sample

POSTGRESQL_INFO = Metric("pgprefect_postgresql_info", "Version of PostgreSQL.")
SIZE = Metric("pgprefect_database_size_bytes", "Size of the database.")
STANDBY = Metric("pgprefect_database_standby", "1 where the server that answered is a standby.")
USED = Metric("pgprefect_connections_used", "Sessions of the server, of the database, and of each role with a limit.")
ALLOWED = Metric("pgprefect_connections_allowed", "Sessions that the server, the database or a role may have.")
OPEN = Metric("pgprefect_transactions_open", "Transactions of the database that are open.")
OLDEST = Metric("pgprefect_transaction_oldest_seconds", "Seconds for which the oldest of them has been open.")
IDLE = Metric("pgprefect_transaction_idle_seconds", "Seconds for which one of them has been idle at most.")
WAITING = Metric("pgprefect_lock_waits", "Lock requests of the database's sessions that wait.")
LONGEST = Metric("pgprefect_lock_wait_longest_seconds", "Seconds for which the longest of them has waited.")
XID_AGE = Metric("pgprefect_xid_age", "Age of the oldest transaction ID or multixact of any database, in transactions.")
SCHEMA_SIZE = Metric("pgprefect_schema_size_bytes", "Size of a schema's tables with indexes, as of their last vacuum.")
LIVE = Metric("pgprefect_schema_live_tuples", "Rows of a schema's tables, estimated.")
DEAD = Metric("pgprefect_schema_dead_tuples", "Dead rows of a schema's tables, estimated.")
ARCHIVING = Metric("pgprefect_archiving_enabled", "1 where PostgreSQL archives its WAL.")
ARCHIVED = Metric("pgprefect_archived_segments_total", "Pieces of WAL that were archived.", COUNTER)
FAILED = Metric("pgprefect_archive_failures_total", "Attempts to archive a piece of WAL that failed.", COUNTER)
LAST_ARCHIVED = Metric("pgprefect_archive_last_success_timestamp_seconds", "When a piece of WAL was archived last.")
LAST_FAILED = Metric("pgprefect_archive_last_failure_timestamp_seconds", "When archiving a piece of WAL failed last.")
LAG_BYTES = Metric("pgprefect_replication_lag_bytes", "WAL that a standby has not replayed yet.")
LAG_SECONDS = Metric("pgprefect_replication_lag_seconds", "Seconds until recent WAL was replayed by a standby.")
SLOT_BYTES = Metric("pgprefect_replication_slot_retained_bytes", "WAL that is kept for a replication slot.")
SLOT_ACTIVE = Metric("pgprefect_replication_slot_active", "1 where a replication slot is in use.")


def questions(tenants: tuple[Tenant, ...], limits: Thresholds) -> dict[str, Callable[[Ask], Iterator[Sample]]]:
    """Return the questions about the server by their names, each of one round trip; ``limits`` are health's."""
    owners = {"public": "", **{tenant.schema: tenant.name for tenant in tenants}}
    storage = partial(probes.storage, limits=limits, schemas=list(owners))
    return {
        "database": partial(_probed, probes.app_database, _database),
        "connections": partial(_probed, partial(probes.connections, limits=limits), _connections),
        "transactions": partial(_probed, partial(probes.transactions, limits=limits), _transactions),
        "locks": partial(_probed, partial(probes.locks, limits=limits), _locks),
        "storage": partial(_probed, storage, partial(_storage, owners)),
        "archiving": partial(_probed, partial(probes.archiving, limits=limits, declared=False), _archiving),
        "replication": replication,
    }


def _probed(
    probe: Callable[[Ask], Finding], samples: Callable[[Mapping[str, Any]], Iterator[Sample]], ask: Ask
) -> Iterator[Sample]:
    """Return what health asks as samples."""
    _problems, details = probe(ask)
    return samples(details)


def _database(details: Mapping[str, Any]) -> Iterator[Sample]:
    yield from POSTGRESQL_INFO(1, version=details["server_version"].split()[0])
    yield from SIZE(details["size_bytes"])
    yield from STANDBY(details["standby"])


def _connections(details: Mapping[str, Any]) -> Iterator[Sample]:
    for name, found in details["limits"].items():
        kind, _, which = name.partition(" ")
        yield from USED(found["used"], of=kind, name=which)
        yield from ALLOWED(found["allowed"], of=kind, name=which)


def _transactions(details: Mapping[str, Any]) -> Iterator[Sample]:
    yield from OPEN(details["open"])
    yield from OLDEST(details["oldest_s"])
    yield from IDLE(details["idle_s"])


def _locks(details: Mapping[str, Any]) -> Iterator[Sample]:
    yield from WAITING(details["waiting"])
    yield from LONGEST(details["longest_s"] or 0)


def _storage(owners: Mapping[str, str], details: Mapping[str, Any]) -> Iterator[Sample]:
    yield from XID_AGE(details["xid_age"])
    for schema, found in details["schemas"].items():
        labels = {"tenant": owners[schema], "schema": schema}
        yield from SCHEMA_SIZE(found["bytes"], **labels)
        yield from LIVE(found["live"], **labels)
        yield from DEAD(found["dead"], **labels)


def _archiving(details: Mapping[str, Any]) -> Iterator[Sample]:
    yield from ARCHIVING(details["archive_mode"] != "off")
    yield from ARCHIVED(details["archived"])
    yield from FAILED(details["failed"])
    for metric, moment in ((LAST_ARCHIVED, details["last_archived"]), (LAST_FAILED, details["last_failed"])):
        yield from metric(moment and datetime.fromisoformat(moment))


# A standby has a position of its own. Standbys of one name are one: the one that is behind the most.
_REPLICATION = """
WITH position AS (
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS here
)
SELECT 'standby', application_name, max(pg_wal_lsn_diff(here, replay_lsn))::int8,
       max(extract(epoch FROM replay_lag))::float8, NULL
FROM pg_stat_replication, position GROUP BY application_name
UNION ALL
SELECT 'slot', slot_name, pg_wal_lsn_diff(here, restart_lsn)::int8, NULL, active FROM pg_replication_slots, position
ORDER BY 1, 2
"""


def replication(ask: Ask) -> Iterator[Sample]:
    """Say how far standbys are behind, and what replication slots keep."""
    for kind, name, size, seconds, active in ask(Statement(_REPLICATION)):
        if kind == "standby":
            yield from LAG_BYTES(size, standby=name)
            yield from LAG_SECONDS(seconds, standby=name)
        else:
            yield from SLOT_BYTES(size, slot=name)
            yield from SLOT_ACTIVE(active, slot=name)
