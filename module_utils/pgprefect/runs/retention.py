"""Deleting what is old in Prefect's schema: flow runs in whole trees with all that belongs to them, logs, events, ...

``plan`` says what would go, ``clean_up`` deletes it in small transactions. Each of these leaves the schema whole: a run
goes together with its logs and artifacts, and a collection whose newest artifact goes is pointed to the one before. So
a cleanup can be killed at any time; the next one goes on. Runs that have not ended, deployments, flows and pools are
never touched.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from ..core.errors import InputError, PgprefectError
from ..core.prefect import TERMINAL_STATES, TERMINAL_STATES_SQL
from ..core.sql import Names, Statement, quote

# Every table that loses rows, in the order in which people think of them.
CLEANED_TABLES = (
    "flow_run",
    "flow_run_state",
    "flow_run_input",
    "task_run",
    "task_run_state",
    "task_run_state_cache",
    "log",
    "artifact",
    "artifact_collection",
    "events",
    "event_resources",
)
_DAYS = ("days_to_keep", "logs_days", "artifacts_days", "events_days", "unattached_days")
_LONGEST_DAYS = 36_500
# Of the time that a transaction may take this much is aimed at: the machine may have more to do a moment later.
_AIM = 0.4
_FIRST_ROWS = 4000
_ATTEMPTS = 8
# What passes by itself: a deadlock, a lock or a statement that took too long.
_PASSING = ("40P01", "40001", "55P03", "57014")


def _in_vain(error: Exception) -> str:
    return f"{str(error).strip()}. Look for a session that holds locks in pg_stat_activity"


class PolicyError(InputError):
    """A policy that makes no sense."""


class RetentionError(PgprefectError):
    """A cleanup that can not be done, or not now."""


@dataclass(frozen=True)
class Policy:
    """What is kept, and how gently the rest is deleted. None as a number of days leaves that class alone."""

    days_to_keep: float | None = 30  # flow runs, since they ended
    days_by_state: Mapping[str, float] = field(default_factory=dict)  # instead, for a state type
    keep_newest: int = 0  # ended runs of each deployment, however old
    protected_tags: tuple[str, ...] = ()  # a run with one of these keeps its tree, its logs and its artifacts
    logs_days: float | None = None  # logs of runs that stay
    artifacts_days: float | None = None  # artifacts of runs that stay
    events_days: float | None = None
    orphans: bool = True  # logs and artifacts of a flow run that is gone, collections without an artifact
    unattached_days: float | None = None  # logs and artifacts that never had a run
    expired_cache: bool = True  # entries of the task runs' cache that have expired or lost their task run
    zombie_hours: float | None = 24  # running for longer, and without a sign of life for as long: reported
    crash_zombies: bool = False  # ... and set to Crashed
    allow_zero_days: bool = False
    batch_size: int = 5000  # runs in one transaction, at most
    max_transaction_seconds: float = 0.5
    max_replication_lag_bytes: int | None = None
    max_replication_lag_seconds: float | None = None
    max_active_sessions: int | None = None  # other sessions that are busy in the database
    pause_timeout: float = 300

    def __post_init__(self) -> None:
        states = {f"days_by_state[{state}]": days for state, days in self.days_by_state.items()}
        for name, days in {**{name: getattr(self, name) for name in _DAYS}, **states}.items():
            if days is not None:
                self._check_days(name, days)
        unknown = sorted(set(self.days_by_state) - set(TERMINAL_STATES))
        if unknown:
            raise PolicyError(
                f"days_by_state: {', '.join(unknown)} is no state that ends a run: {', '.join(TERMINAL_STATES)}."
            )
        for name in ("zombie_hours", "batch_size", "max_transaction_seconds", "pause_timeout"):
            number = getattr(self, name)
            if number is not None and not 0 < number < math.inf:
                raise PolicyError(f"{name}: {number:g} must be above 0.")
        for name in ("keep_newest", "max_replication_lag_bytes", "max_replication_lag_seconds", "max_active_sessions"):
            number = getattr(self, name)
            if number is not None and not 0 <= number < math.inf:
                raise PolicyError(f"{name}: {number:g} can not be negative.")
        if self.crash_zombies and self.zombie_hours is None:
            raise PolicyError("crash_zombies needs zombie_hours: after how long a run counts as one.")

    def _check_days(self, name: str, days: float) -> None:
        if not 0 <= days <= _LONGEST_DAYS:  # not a number neither
            hint = "; the cut-off would lie in the future" if days < 0 else ""
            raise PolicyError(f"{name}: {days:g} must be from 0 to {_LONGEST_DAYS} days{hint}.")
        if days == 0 and not self.allow_zero_days:
            raise PolicyError(f"{name}: 0 deletes everything that has ended; allow_zero_days says that this is meant.")

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Policy:
        """Make a policy of names and values, as they come from JSON, YAML or a module. Raises PolicyError."""
        known = {column.name: column.type for column in fields(cls)}
        unknown = sorted(set(arguments) - set(known))
        if unknown:
            raise PolicyError(f"A policy has no {', '.join(unknown)}; it has: {', '.join(known)}.")
        return cls(**{name: _typed(name, str(known[name]), value) for name, value in arguments.items()})


def _typed(name: str, kind: str, value: Any) -> Any:
    """Return a value as a policy has it. Raises PolicyError."""
    if value is None and kind.endswith("None"):
        return None
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind.startswith("tuple") and isinstance(value, (list, tuple)) and all(isinstance(tag, str) for tag in value):
        return tuple(value)
    if kind.startswith("Mapping") and isinstance(value, Mapping):
        return {str(state).upper(): _number(f"{name}[{state}]", days) for state, days in value.items()}
    if kind.startswith(("int", "float")):
        number = _number(name, value)
        if kind.startswith("float") or number == int(number):
            return number if kind.startswith("float") else int(number)
    raise PolicyError(f"{name}: {value!r} is not of the type {kind.partition('[')[0].partition(' ')[0]}.")


def _number(name: str, value: Any) -> float:
    with contextlib.suppress(TypeError, ValueError):
        if not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)
    raise PolicyError(f"{name}: {value!r} is not a number.")


@dataclass(frozen=True)
class Batch:
    """One transaction that is committed: what it deleted, by table, and how long it took."""

    phase: str
    deleted: dict[str, int]
    seconds: float
    total_rows: int  # deleted so far, in all tables

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Zombie:
    """A run that counts as running, and has shown no sign of life for long."""

    id: str
    name: str
    state: str
    since: str
    hours: float


@dataclass(frozen=True)
class CleanupPlan:
    """What a cleanup would delete now, by table, and roughly how many bytes these rows take with their indexes."""

    rows: dict[str, int]
    bytes: int
    zombies: list[Zombie]

    def as_dict(self) -> dict[str, Any]:
        return {**named(self.rows), "rows": self.rows, "bytes": self.bytes, "zombies": list(map(asdict, self.zombies))}


@dataclass(frozen=True)
class CleanupResult:
    """What a cleanup deleted, by table, and how."""

    rows: dict[str, int]
    collections_repointed: int
    zombies: list[Zombie]
    zombies_crashed: int
    trees_skipped: int  # because another session held a run of theirs
    batches: int
    longest_transaction_seconds: float
    seconds: float  # without vacuuming
    paused_seconds: float
    vacuumed: list[str]
    vacuum_message: str

    def as_dict(self) -> dict[str, Any]:
        return {**named(self.rows), **asdict(self)}


def named(rows: Mapping[str, int]) -> dict[str, int]:
    """Return the counts under the names that programs know: flow_runs_deleted, logs_deleted, ..."""
    return {f"{table if table.endswith('s') else table + 's'}_deleted": rows[table] for table in CLEANED_TABLES}


Progress = Callable[[Batch], None]


def plan(connection: Any, schema: str, policy: Policy) -> CleanupPlan:
    """Count what ``clean_up`` would delete now, in one snapshot. Raises RetentionError."""
    with _Work(connection, schema, policy).prepared() as work, work.transaction(snapshot=True):
        return work.plan()


def clean_up(
    connection: Any,
    schema: str,
    policy: Policy,
    progress: Progress | None = None,
    vacuum_connection: Any = None,
) -> CleanupResult:
    """Delete what the policy does not keep, and vacuum the tables that lost rows.

    The connection needs the right to delete, as the tenant's server role has it, and must not be in a transaction.
    Only an owner of the tables can vacuum them: ``vacuum_connection``, else the connection itself if it may, else
    autovacuum. Raises RetentionError.
    """
    import psycopg2

    work = _Work(connection, schema, policy, progress or (lambda _batch: None))
    try:
        with work.prepared(), work.cleanup_lock():
            return work.clean_up(vacuum_connection or connection)
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        # A server that goes down says so (57P01, 57P02) before the connection is seen to be closed.
        if not connection.closed and not (error.pgcode or "").startswith("57P"):
            raise
        raise RetentionError(
            f"The connection broke after {sum(work.rows.values())} deleted rows ({str(error).strip()}). They stay "
            "deleted, and nothing is half done: run the cleanup again."
        ) from error


_ENDED = f"r.state_type IN {TERMINAL_STATES_SQL}"
_OLD_ENOUGH = f"""
    {_ENDED} AND coalesce(r.end_time, r.state_timestamp, r.updated) < CASE r.state_type
        WHEN 'COMPLETED' THEN %(COMPLETED)s::timestamptz WHEN 'FAILED' THEN %(FAILED)s::timestamptz
        WHEN 'CRASHED' THEN %(CRASHED)s::timestamptz ELSE %(CANCELLED)s::timestamptz END
    AND NOT r.tags ?| %(protected)s::text[] AND r.id <> ALL (%(kept)s::uuid[])"""
_KEPT = f"""
    SELECT r.id FROM deployment d CROSS JOIN LATERAL (
        SELECT r.id FROM flow_run r WHERE r.deployment_id = d.id AND {_ENDED}
        ORDER BY r.end_time DESC NULLS LAST, r.id LIMIT %(keep_newest)s) r"""
# Trees from a place in the order of their root's end (or id, for those without an end): each member with its depth,
# whether it may go, and about how many rows go with it.
_TREES = f"""
    WITH RECURSIVE root AS (
        SELECT r.id, r.end_time FROM flow_run r
        WHERE {{place}} AND {_OLD_ENOUGH} AND NOT EXISTS (
            SELECT FROM task_run t WHERE t.id = r.parent_task_run_id AND t.flow_run_id IS NOT NULL)
        ORDER BY r.end_time, r.id LIMIT %(batch_size)s
    ), member AS (
        SELECT id AS root, id, 0 AS depth, true AS old FROM root
        UNION ALL
        SELECT m.root, r.id, m.depth + 1, {_OLD_ENOUGH}
        FROM member m JOIN task_run t ON t.flow_run_id = m.id JOIN flow_run r ON r.parent_task_run_id = t.id
    )
    SELECT m.root, root.end_time, m.id, m.depth, m.old,
           (SELECT count(*) FROM log WHERE flow_run_id = m.id)
           + 5 * (SELECT count(*) FROM task_run WHERE flow_run_id = m.id) + 8
    FROM member m JOIN root ON root.id = m.root ORDER BY root.end_time, m.root, m.depth DESC"""
_PLACES = (
    """r.end_time >= %(end)s::timestamptz AND (r.end_time, r.id) > (%(end)s::timestamptz, %(after)s::uuid)
       AND r.end_time < %(newest)s::timestamptz""",
    "r.end_time IS NULL AND r.id > %(after)s::uuid",
)
_NOBODY = "00000000-0000-0000-0000-000000000000"

# What goes with flow runs, by foreign keys or by clean_up.
_TASKS = "SELECT id FROM task_run WHERE flow_run_id = ANY (%(ids)s::uuid[])"
_OF_RUNS = {
    "flow_run": "x.id = ANY (%(ids)s::uuid[])",
    "flow_run_state": "x.flow_run_id = ANY (%(ids)s::uuid[])",
    "flow_run_input": "x.flow_run_id = ANY (%(ids)s::uuid[])",
    "task_run": "x.flow_run_id = ANY (%(ids)s::uuid[])",
    "task_run_state": f"x.task_run_id IN ({_TASKS})",
    "task_run_state_cache": f"x.task_run_state_id IN (SELECT id FROM task_run_state WHERE task_run_id IN ({_TASKS}))",
    "log": "x.flow_run_id = ANY (%(ids)s::uuid[])",
    "artifact": "x.flow_run_id = ANY (%(ids)s::uuid[])",
}
# What goes by its own age: the column that says it, and the condition.
_OF_A_RUN_THAT_STAYS = f"""NOT EXISTS (
    SELECT FROM flow_run r WHERE r.id = x.flow_run_id
    AND (r.state_type IS NULL OR NOT {_ENDED} OR r.tags ?| %(protected)s::text[]))"""
_UNATTACHED = "x.flow_run_id IS NULL AND x.task_run_id IS NULL"
_AGED = {
    "log": (
        "timestamp",
        f"""(x.timestamp < %(logs_days)s::timestamptz AND NOT ({_UNATTACHED}) AND {_OF_A_RUN_THAT_STAYS}
             OR x.timestamp < %(unattached_days)s::timestamptz AND {_UNATTACHED})""",
    ),
    "artifact": (
        "updated",
        f"""(x.updated < %(artifacts_days)s::timestamptz AND NOT ({_UNATTACHED}) AND {_OF_A_RUN_THAT_STAYS}
             OR x.updated < %(unattached_days)s::timestamptz AND {_UNATTACHED})""",
    ),
    # The resources first: an event without resources is found again by its age, and so are they.
    "event_resources": ("occurred", "x.occurred < %(events_days)s::timestamptz"),
    "events": ("occurred", "x.occurred < %(events_days)s::timestamptz"),
}
_CUTOFFS = {"log": ("logs_days", "unattached_days"), "artifact": ("artifacts_days", "unattached_days")}
_ORPHANED = """(%(orphans)s AND x.flow_run_id IS NOT NULL
    AND NOT EXISTS (SELECT FROM flow_run r WHERE r.id = x.flow_run_id))"""
_STALE_CACHE = """(%(expired_cache)s AND (x.cache_expiration < %(now)s::timestamptz
    OR NOT EXISTS (SELECT FROM task_run_state s WHERE s.id = x.task_run_state_id)))"""
# The next thousand runs that a table names, by stepping through its index.
_NAMED_RUNS = """
    WITH RECURSIVE named AS (
        (SELECT flow_run_id AS id FROM {table} WHERE flow_run_id > %(after)s::uuid ORDER BY 1 LIMIT 1)
        UNION ALL
        SELECT (SELECT flow_run_id FROM {table} WHERE flow_run_id > named.id ORDER BY 1 LIMIT 1) FROM named
        WHERE named.id IS NOT NULL
    ), page AS (SELECT id FROM named WHERE id IS NOT NULL LIMIT 1000)
    SELECT id, EXISTS (SELECT FROM flow_run r WHERE r.id = page.id) FROM page ORDER BY id"""
_COPIED = ("data", "description", "type", "created", "updated", "flow_run_id", "task_run_id", "metadata_")
_WITHOUT_LATEST = """NOT EXISTS (SELECT FROM artifact a WHERE a.id = c.latest_id)
    AND (%(keys)s::text[] IS NULL OR c.key = ANY (%(keys)s::text[]))"""
_REPOINT = f"""
    UPDATE artifact_collection c SET latest_id = n.id, {", ".join(f"{name} = n.{name}" for name in _COPIED)}
    FROM (SELECT DISTINCT ON (a.key) a.* FROM artifact a JOIN artifact_collection c USING (key) WHERE {_WITHOUT_LATEST}
          ORDER BY a.key, a.created DESC) n
    WHERE n.key = c.key AND {_WITHOUT_LATEST}"""
_EMPTY = f"""
    DELETE FROM artifact_collection c
    WHERE {_WITHOUT_LATEST} AND NOT EXISTS (SELECT FROM artifact a WHERE a.key = c.key)"""
# A sign of life is a log, a change of a task run, or an event of the run itself (Prefect's heartbeats are such).
_ZOMBIES = """
    SELECT r.id, r.name, r.state_type, to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
           extract(epoch FROM %(now)s::timestamptz - since)::float8 / 3600
    FROM flow_run r, coalesce(r.state_timestamp, r.start_time, r.updated) AS since
    WHERE r.state_type IN ('PENDING', 'RUNNING', 'CANCELLING') AND since < %(zombies)s::timestamptz
    AND NOT EXISTS (SELECT FROM log x WHERE x.flow_run_id = r.id AND x.timestamp >= %(zombies)s::timestamptz)
    AND NOT EXISTS (SELECT FROM task_run x WHERE x.flow_run_id = r.id AND x.updated >= %(zombies)s::timestamptz)
    AND NOT EXISTS (SELECT FROM event_resources x WHERE x.resource_id = 'prefect.flow-run.' || r.id
                    AND x.occurred >= %(zombies)s::timestamptz)
    ORDER BY since"""
_CRASH = """
    WITH gone AS (
        SELECT r.id, gen_random_uuid() AS state FROM flow_run r
        WHERE r.id = ANY (%(ids)s::uuid[]) AND r.state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
        FOR UPDATE SKIP LOCKED
    ), states AS (
        INSERT INTO flow_run_state (id, type, name, timestamp, message, flow_run_id)
        SELECT state, 'CRASHED', 'Crashed', now(), 'No sign of life for long; set by the cleanup.', id FROM gone
    )
    UPDATE flow_run r SET state_id = gone.state, state_type = 'CRASHED', state_name = 'Crashed',
        state_timestamp = now(), end_time = now(), updated = now(),
        total_run_time = r.total_run_time + CASE WHEN r.state_type = 'RUNNING'
        THEN greatest(now() - r.state_timestamp, interval '0') ELSE interval '0' END
    FROM gone WHERE gone.id = r.id"""


@dataclass(frozen=True)
class _Tree:
    """Flow runs that go together, the deepest first, each with about how many rows go with it."""

    members: dict[str, int]

    @property
    def weight(self) -> int:
        return sum(self.members.values())


@dataclass
class _Work:
    """One plan or cleanup under way."""

    connection: Any
    schema: str
    policy: Policy
    progress: Progress = lambda _batch: None
    values: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLEANED_TABLES, 0))
    repointed: int = 0
    skipped: int = 0
    batches: int = 0
    longest: float = 0
    paused: float = 0

    @contextlib.contextmanager
    def prepared(self) -> Iterator[_Work]:
        """Give the connection back as it came; refuse a role that may not do this. Raises RetentionError."""
        import psycopg2

        if self.connection.info.transaction_status != 0:
            raise RetentionError("The connection is in a transaction: commit or roll back before a cleanup.")
        autocommit, self.connection.autocommit = self.connection.autocommit, False
        try:
            with self.transaction():
                self._check_rights()
                self._check_sight()
                self._set_values()
            yield self
        except psycopg2.Error as error:
            if error.pgcode not in _PASSING:
                raise
            raise RetentionError(f"The cleanup could not look what is there: {_in_vain(error)}.") from error
        finally:
            if not self.connection.closed:
                self.connection.rollback()
                self.connection.autocommit = autocommit

    @contextlib.contextmanager
    def cleanup_lock(self) -> Iterator[None]:
        """Keep another cleanup of the schema out, for as long as the session lives."""
        lock = "(hashtext('pgprefect cleanup'), hashtext(%(schema)s))"
        with self.transaction():
            if not self.ask(f"SELECT pg_try_advisory_lock{lock}", schema=self.schema)[0][0]:
                holders = self.ask(
                    """SELECT l.pid FROM pg_locks l WHERE locktype = 'advisory' AND granted AND objsubid = 2
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                       AND classid::bigint = hashtext('pgprefect cleanup')::bigint & 4294967295
                       AND objid::bigint = hashtext(%(schema)s)::bigint & 4294967295""",
                    schema=self.schema,
                )
                by = f" (process {holders[0][0]} of the server)" if holders else ""
                raise RetentionError(
                    f"Another cleanup of the schema {self.schema} is running{by}: wait for it, or end it with "
                    "pg_terminate_backend; what it deleted stays deleted."
                )
        try:
            yield
        finally:
            if not self.connection.closed:
                self.connection.rollback()
                with self.transaction():
                    self.ask(f"SELECT pg_advisory_unlock{lock}", schema=self.schema)

    @contextlib.contextmanager
    def transaction(self, snapshot: bool = False, deleting: bool = False) -> Iterator[None]:
        """One transaction with Prefect's tables in sight, that waits for nothing for long.

        The timeouts are for what was not expected: how much is deleted at a time keeps to the policy's seconds.
        """
        milliseconds = int(self.policy.max_transaction_seconds * 1000)
        try:
            if snapshot:
                self.ask("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self.ask(
                """SELECT set_config('search_path', %(path)s, true), set_config('lock_timeout', %(lock)s, true),
                          set_config('statement_timeout', %(longest)s, true)""",
                path=f"pg_catalog, {quote(self.schema)}",
                lock=str(max(milliseconds, 100) if deleting else 10_000),
                longest=str(max(milliseconds * 4, 2000) if deleting else 0 if snapshot else 300_000),
            )
            yield
            self.connection.commit()
        except BaseException:
            if not self.connection.closed:
                self.connection.rollback()
            raise

    def ask(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run a statement with the policy's values and these; return its rows, if it makes any."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, {**self.values, **values})
            return cursor.fetchall() if cursor.description else []

    def _check_rights(self) -> None:
        tables = self.ask(
            """SELECT c.relname, has_table_privilege(c.oid, 'DELETE') AND has_schema_privilege(n.oid, 'USAGE'),
                      current_user, current_setting('track_counts')::bool
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s) AND c.relkind = 'r'""",
            schema=self.schema,
            tables=list(CLEANED_TABLES),
        )
        missing = sorted(set(CLEANED_TABLES) - {row[0] for row in tables})
        if missing:
            raise RetentionError(
                f"The schema {self.schema} has no {', '.join(missing)}: name the schema of a Prefect server, or "
                "migrate it (playbooks/server.yml)."
            )
        if not tables[0][3]:
            raise RetentionError("track_counts is off, so nobody would know what was deleted: set it to on.")
        if all(row[1] for row in tables):
            return
        able = self.ask(
            """SELECT r.rolname FROM pg_catalog.pg_roles r
               WHERE NOT r.rolsuper AND r.rolname !~ '^pg_'
               AND has_schema_privilege(r.oid, (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s), 'USAGE')
               AND (SELECT bool_and(has_table_privilege(r.oid, c.oid, 'DELETE')) FROM pg_catalog.pg_class c
                    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s)) ORDER BY 1""",
            schema=self.schema,
            tables=list(CLEANED_TABLES),
        )
        raise RetentionError(
            f"The role {tables[0][2]} may not delete from the schema {self.schema}. Log in as one that may: "
            f"{', '.join(row[0] for row in able) or 'a superuser'}."
        )

    def _check_sight(self) -> None:
        """Refuse to pause for what this role can not see: PostgreSQL hides it without an error."""
        names = ("max_replication_lag_bytes", "max_replication_lag_seconds", "max_active_sessions")
        limits = [name for name in names if getattr(self.policy, name) is not None]
        sees, role = self.ask("SELECT pg_has_role('pg_read_all_stats', 'USAGE'), current_user")[0]
        if limits and not sees:
            raise RetentionError(
                f"{', '.join(limits)}: the role {role} sees neither replicas nor other roles' sessions. Clean up on "
                f'the database\'s host (pgprefect cleanup), or as a superuser: GRANT pg_read_all_stats TO "{role}"'
            )

    def _set_values(self) -> None:
        """Turn days into points in time, once, by the server's clock."""
        policy = self.policy
        now: datetime = self.ask("SELECT now()")[0][0]

        def before(days: float | None) -> Any:
            return "-infinity" if days is None else now - timedelta(days=days)

        states = {state: before(policy.days_by_state.get(state, policy.days_to_keep)) for state in TERMINAL_STATES}
        points = [point for point in states.values() if point != "-infinity"]
        self.values = {
            **states,
            **{name: before(getattr(policy, name)) for name in _DAYS},
            "now": now,
            "newest": max(points, default="-infinity"),
            "zombies": before(None if policy.zombie_hours is None else policy.zombie_hours / 24),
            "protected": list(policy.protected_tags),
            "orphans": policy.orphans,
            "expired_cache": policy.expired_cache,
            "keep_newest": policy.keep_newest,
            "batch_size": policy.batch_size,
            "kept": [],
        }
        if policy.keep_newest:
            self.values["kept"] = [row[0] for row in self.ask(_KEPT)]

    # What goes

    def trees(self, end: Any, after: str, place: str) -> tuple[list[_Tree], Any, str]:
        """Return the next trees that may go, and where the ones after them begin ("" if there are none)."""
        found: dict[str, dict[str, int]] = {}
        refused, looked = set(), 0
        last: tuple[Any, str] = (end, "")
        for root, ended, member, depth, old, weight in self.ask(_TREES.format(place=place), end=end, after=after):
            found.setdefault(root, {})[member] = weight
            looked += depth == 0
            last = (ended, root)
            if not old:
                refused.add(root)
        trees = [_Tree(members) for root, members in found.items() if root not in refused]
        return trees, last[0], last[1] if looked == self.policy.batch_size else ""

    def all_trees(self, around: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[list[_Tree]]:
        """Yield all trees that may go, some at a time; each is looked up within ``around``."""
        for place in _PLACES if self.values["newest"] != "-infinity" else ():
            end, after = "-infinity", _NOBODY
            while after:
                with around():
                    trees, end, after = self.trees(end, after, place)
                yield trees

    def plan(self) -> CleanupPlan:
        gone: list[str] = []
        alone = {
            **{table: f"{condition}" for table, (_, condition) in _AGED.items()},
            "task_run_state_cache": _STALE_CACHE,
        }
        for table in ("log", "artifact"):
            alone[table] += f" OR {_ORPHANED}"
        for table, condition in alone.items():
            self.rows[table] += self.ask(f"SELECT count(*) FROM {table} x WHERE {condition}")[0][0]
        for trees in self.all_trees(contextlib.nullcontext):
            ids = [member for tree in trees for member in tree.members]
            gone += ids
            for table, condition in _OF_RUNS.items():
                rest = f"AND ({alone[table]}) IS NOT TRUE" if table in alone else ""
                count = self.ask(f"SELECT count(*) FROM {table} x WHERE {condition} {rest}", ids=ids)[0][0]
                self.rows[table] += count
        # A collection goes with the last artifact of its key.
        stays = f"({alone['artifact']}) IS NOT TRUE AND (x.flow_run_id = ANY (%(ids)s::uuid[])) IS NOT TRUE"
        left = f"EXISTS (SELECT FROM artifact x WHERE x.key = c.key AND {stays})"
        lost = f"NOT EXISTS (SELECT FROM artifact x WHERE x.id = c.latest_id AND {stays})"
        had = "(%(orphans)s OR EXISTS (SELECT FROM artifact x WHERE x.id = c.latest_id))"
        self.rows["artifact_collection"] = self.ask(
            f"SELECT count(*) FROM artifact_collection c WHERE {had} AND {lost} AND NOT {left}", ids=gone
        )[0][0]
        return CleanupPlan(self.rows, self._bytes(), self.zombies())

    def _bytes(self) -> int:
        """Estimate what the rows of a plan take on disk, from the sizes of whole tables."""
        sizes = self.ask(
            """SELECT relname, pg_total_relation_size(c.oid), greatest(reltuples, 1)::float8 FROM pg_class c
               JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %(schema)s AND relname = ANY (%(tables)s)""",
            schema=self.schema,
            tables=list(CLEANED_TABLES),
        )
        return int(sum(size * min(1.0, self.rows[table] / tuples) for table, size, tuples in sizes))

    def zombies(self) -> list[Zombie]:
        return [Zombie(*row) for row in self.ask(_ZOMBIES)]

    # How it goes

    def clean_up(self, vacuum_connection: Any) -> CleanupResult:
        started = time.monotonic()
        self._delete_runs()
        for table, (column, condition) in _AGED.items():
            self._delete_aged(table, column, condition)
        if self.policy.orphans:
            self._delete_orphans()
        if self.policy.expired_cache:
            self._delete_slices("cache", "task_run_state_cache", _STALE_CACHE)
        with self.transaction():
            zombies = self.zombies()
        crashed = self._crash(zombies) if self.policy.crash_zombies else 0
        seconds = time.monotonic() - started
        vacuumed, message = self._vacuum(vacuum_connection)
        return CleanupResult(
            rows=self.rows,
            collections_repointed=self.repointed,
            zombies=zombies,
            zombies_crashed=crashed,
            trees_skipped=self.skipped,
            batches=self.batches,
            longest_transaction_seconds=round(self.longest, 4),
            seconds=round(seconds, 3),
            paused_seconds=round(self.paused, 3),
            vacuumed=vacuumed,
            vacuum_message=message,
        )

    @contextlib.contextmanager
    def measured(self, deleting: bool = False) -> Iterator[None]:
        """One transaction of a cleanup, of which the duration counts."""
        started = time.monotonic()
        with self.transaction(deleting=deleting):
            yield
        self.longest = max(self.longest, time.monotonic() - started)

    def batch(self, phase: str, size: _Size, delete: Callable[[int], int]) -> int:
        """Commit one batch, again with less if a lock or the time runs out; return what ``delete`` does."""
        import psycopg2

        for attempt in range(1, _ATTEMPTS + 1):
            started = time.monotonic()
            try:
                with self.measured(deleting=True):
                    before = self._deleted()
                    done = delete(size.rows)
                    after = self._deleted()
                break
            except psycopg2.Error as error:
                if error.pgcode not in _PASSING:
                    raise
                if attempt == _ATTEMPTS:
                    raise RetentionError(
                        f"The cleanup of {phase} gave up after {_ATTEMPTS} attempts: {_in_vain(error)}; what was "
                        "deleted stays deleted."
                    ) from error
                size.rows = max(1, size.rows // 4)
                time.sleep(0.05 * attempt)
        seconds = time.monotonic() - started
        deleted = {table: after[table] - before[table] for table in CLEANED_TABLES if after[table] > before[table]}
        size.learn(sum(deleted.values()), seconds, self.policy.max_transaction_seconds)
        for table, count in deleted.items():
            self.rows[table] += count
        if deleted:
            self.batches += 1
            self.progress(Batch(phase, deleted, round(seconds, 4), sum(self.rows.values())))
        self._pause()
        return done

    def _deleted(self) -> dict[str, int]:
        """What this session has deleted, by table, including what went by foreign keys: PostgreSQL counts it anyway."""
        return dict(
            self.ask(
                """SELECT c.relname::text, pg_stat_get_xact_tuples_deleted(c.oid) FROM pg_class c
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = %(schema)s AND c.relname = ANY (%(tables)s)""",
                schema=self.schema,
                tables=list(CLEANED_TABLES),
            )
        )

    def _delete_runs(self) -> None:
        size = _Size()
        for trees in self.all_trees(self.measured):
            done = 0
            while done < len(trees):
                if trees[done].weight > max(size.rows, _FIRST_ROWS):
                    self._delete_large(trees[done], size)
                    done += 1
                else:
                    rest = trees[done:]
                    done += self.batch("runs", size, functools.partial(self._delete_first, rest))

    def _delete_first(self, trees: list[_Tree], rows: int) -> int:
        """Delete about so many rows with the first trees, at least one tree; return how many trees are dealt with.

        A tree stays when one of its runs is held by another session, or is not any more as it was.
        """
        weights = itertools.accumulate(tree.weight for tree in trees)
        trees = trees[: max(1, sum(weight <= rows for weight in weights))]
        ids = [member for tree in trees for member in tree.members]
        lock = f"""SELECT r.id FROM flow_run r WHERE r.id = ANY (%(ids)s::uuid[]) AND {_OLD_ENOUGH}
            ORDER BY r.id FOR UPDATE SKIP LOCKED"""
        held = {row[0] for row in self.ask(lock, ids=ids)}
        going = [tree for tree in trees if held.issuperset(tree.members)]
        ids = [member for tree in going for member in tree.members]
        self.ask("DELETE FROM flow_run WHERE id = ANY (%(ids)s::uuid[])", ids=ids)
        self.ask("DELETE FROM log WHERE flow_run_id = ANY (%(ids)s::uuid[])", ids=ids)
        self._delete_artifacts("x.flow_run_id = ANY (%(ids)s::uuid[])", ids=ids)
        self.skipped += len(trees) - len(going)
        return len(trees)

    def _delete_large(self, tree: _Tree, size: _Size) -> None:
        """Delete a tree that is too large for one transaction: run by run, from the leaves to the root."""
        for run, weight in tree.members.items():
            single, skipped = _Tree({run: weight}), self.skipped
            if weight > size.rows:
                self._shed(run, size)
            self.batch("runs", size, functools.partial(self._delete_first, [single]))
            if self.skipped > skipped:
                return

    def _shed(self, run: str, size: _Size) -> None:
        """Take most of its rows from a run that is too large for one transaction."""
        lock = f"SELECT 1 FROM flow_run r WHERE r.id = %(run)s AND {_OLD_ENOUGH} FOR UPDATE SKIP LOCKED"
        no_subflow = "NOT EXISTS (SELECT FROM flow_run r WHERE r.parent_task_run_id = x.id)"
        for table, condition, width in (("log", "true", 1), ("task_run", no_subflow, 5)):
            some = f"""DELETE FROM {table} WHERE id IN (
                SELECT x.id FROM {table} x WHERE x.flow_run_id = %(run)s AND {condition} LIMIT %(rows)s) RETURNING 1"""

            def delete(rows: int, some: str = some, width: int = width) -> int:
                held = self.ask(lock, run=run)
                return len(self.ask(some, run=run, rows=max(1, rows // width))) if held else 0

            while self.batch("runs", size, delete):
                pass

    def _delete_artifacts(self, condition: str, **values: Any) -> int:
        gone = self.ask(f"DELETE FROM artifact x WHERE {condition} RETURNING x.key", **values)
        keys = sorted({row[0] for row in gone if row[0]})
        if keys:
            self._repoint(keys)
        return len(gone)

    def _repoint(self, keys: list[str] | None) -> int:
        """Point collections whose newest artifact is gone to the newest that is left; delete those without any."""
        count = len(self.ask(f"{_REPOINT} RETURNING 1", keys=keys))
        self.repointed += count
        self.ask(_EMPTY, keys=keys)
        return count

    def _delete_aged(self, table: str, column: str, condition: str) -> None:
        """Delete by age, in windows that move forward in time."""
        points = [self.values[name] for name in _CUTOFFS.get(table, ("events_days",))]
        high = max((point for point in points if point != "-infinity"), default=None)
        low: Any = "-infinity" if high else None
        size = _Size()
        window = f"x.{column} >= %(low)s::timestamptz AND x.{column} < %(high)s::timestamptz"

        def delete(rows: int) -> int:
            nonlocal low
            bounds = {"low": low, "high": high}
            end = self.ask(
                f"SELECT x.{column} FROM {table} x WHERE {window} ORDER BY 1 OFFSET %(rows)s LIMIT 1",
                rows=rows,
                **bounds,
            )
            upto = end[0][0] if end else high
            where = f"{window} AND x.{column} <= %(upto)s::timestamptz AND {condition}"
            if table == "artifact":
                self._delete_artifacts(where, upto=upto, **bounds)
            else:
                self.ask(f"DELETE FROM {table} x WHERE {where}", upto=upto, **bounds)
            following.append(upto if end else None)
            return 0

        while low is not None:
            following: list[Any] = []
            self.batch(table, size, delete)
            low = following[-1]

    def _delete_orphans(self) -> None:
        for table in ("log", "artifact"):
            after = _NOBODY
            while after:
                with self.measured():
                    page = self.ask(_NAMED_RUNS.format(table=table), after=after)
                after = page[-1][0] if page else ""
                gone = [run for run, there in page if not there]
                if gone:
                    self._delete_slices(
                        "orphans", table, f"x.flow_run_id = ANY (%(ids)s::uuid[]) AND {_ORPHANED}", ids=gone
                    )
        self.batch("orphans", _Size(), lambda _rows: self._repoint(None))

    def _delete_slices(self, phase: str, table: str, condition: str, **values: Any) -> None:
        """Delete some rows after the other until none is left."""
        some = f"x.id IN (SELECT x.id FROM {table} x WHERE {condition} LIMIT %(rows)s)"

        def delete(rows: int) -> int:
            if table == "artifact":
                return self._delete_artifacts(some, rows=rows, **values)
            return len(self.ask(f"DELETE FROM {table} x WHERE {some} RETURNING 1", rows=rows, **values))

        size = _Size()
        while self.batch(phase, size, delete):
            pass

    def _crash(self, zombies: Iterable[Zombie]) -> int:
        ids = [zombie.id for zombie in zombies]
        return self.batch("zombies", _Size(), lambda _rows: len(self.ask(f"{_CRASH} RETURNING 1", ids=ids)))

    def _pause(self) -> None:
        """Wait while a replica lags or the database is busy. Raises RetentionError when that does not end."""
        policy = self.policy
        limits = (policy.max_replication_lag_bytes, policy.max_replication_lag_seconds, policy.max_active_sessions)
        if limits == (None, None, None):
            return
        started = time.monotonic()
        while True:
            with self.transaction():
                seen = self.ask(
                    """SELECT lag.bytes::float8, extract(epoch FROM lag.time)::float8, busy.sessions
                       FROM (SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(replay_lsn, flush_lsn)))
                                    AS bytes,
                                    max(coalesce(replay_lag, flush_lag)) AS time FROM pg_stat_replication) lag,
                            (SELECT count(*) AS sessions FROM pg_stat_activity
                             WHERE datname = current_database() AND state = 'active'
                             AND backend_type = 'client backend' AND pid <> pg_backend_pid()) busy"""
                )[0]
            names = ("bytes of replication lag", "seconds of replication lag", "active sessions")
            over = [
                f"{value:g} {name}"
                for value, limit, name in zip(seen, limits, names)
                if None not in (value, limit) and value > limit
            ]
            waited = time.monotonic() - started
            if not over:
                self.paused += waited
                return
            if waited > policy.pause_timeout:
                raise RetentionError(
                    f"The cleanup paused for {waited:.0f} s because of {' and '.join(over)}, and that did not end. "
                    "What was deleted stays deleted; run it again later, or allow more."
                )
            time.sleep(min(0.2, policy.pause_timeout))

    def _vacuum(self, connection: Any) -> tuple[list[str], str]:
        """Vacuum and analyze the tables that lost rows; say why not where that is not allowed."""
        tables = [table for table in CLEANED_TABLES if self.rows[table]]
        if not tables:
            return [], ""
        self.connection.rollback()
        autocommit, connection.autocommit = connection.autocommit, True
        try:
            with connection.cursor() as cursor:
                cursor.execute(
                    """SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE'), current_user FROM pg_catalog.pg_class c
                       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                       WHERE nspname = %s AND relname = 'flow_run'""",
                    (self.schema,),
                )
                may, role = cursor.fetchone()
                if not may:
                    return [], f"The role {role} does not own the tables; vacuuming them is left to autovacuum."
                cursor.execute("SET lock_timeout = '10s'; SET statement_timeout = 0")
                for table in tables:
                    Statement("VACUUM (ANALYZE) {}", (Names(((self.schema, table),)),)).execute(cursor)
                cursor.execute("RESET lock_timeout; RESET statement_timeout")
        finally:
            connection.autocommit = autocommit
        return tables, ""


@dataclass
class _Size:
    """How many rows a transaction deletes: so many that it stays below its time."""

    rows: int = _FIRST_ROWS

    def learn(self, deleted: int, seconds: float, limit: float) -> None:
        if deleted and seconds:
            fitting = int(deleted / seconds * limit * _AIM)
            self.rows = max(100, min(fitting, self.rows * 2))
