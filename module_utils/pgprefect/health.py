"""Whether the database, Prefect's schemas, the API and the workers answer, within a bounded time.

Each group of checks has a thread of its own: whatever hangs, be it a name that does not resolve or a network that drops
packets, makes its own checks unhealthy and nobody wait.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable

from .connection import ConnectionFailed, Login, connect
from .prefect_tables import SIGNATURE
from .problems import ERROR, WARNING, Problem
from .ready import get
from .statement import Names, Statement, Value, quote

HEALTHY = "healthy"
DEGRADED = "degraded"
UNHEALTHY = "unhealthy"


@dataclass(frozen=True)
class Part:
    """One tenant as health sees it; ``workers`` is the number that should be online."""

    name: str
    schema: str
    api_url: str
    workers: int = 0

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Part:
        return cls(
            name=arguments["name"],
            schema=arguments["schema"],
            api_url=arguments["api_url"].rstrip("/"),
            workers=int(arguments.get("workers") or 0),
        )


@dataclass
class Check:
    status: str = UNHEALTHY
    problems: list[Problem] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Health:
    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def overall_status(self) -> str:
        found = {check.status for check in self.checks.values()}
        return next((status for status in (UNHEALTHY, DEGRADED) if status in found), HEALTHY)

    def as_dict(self) -> dict[str, Any]:
        return {
            "overall_status": self.overall_status,
            "checks": {name: check.status for name, check in self.checks.items()},
            "problems": [problem.as_dict() for check in self.checks.values() for problem in check.problems],
            "details": {name: check.details for name, check in self.checks.items()},
        }


Finding = tuple[list[Problem], dict[str, Any]]
Probe = Callable[[], Finding]


def check_health(login: Login, database: str, parts: Sequence[Part], timeout: float = 4.0) -> Health:
    """Run all checks at the same time. It takes no longer than the timeout, in seconds."""
    sources = _Sources(login, database, timeout)
    groups: list[dict[str, Probe]] = [
        {
            "app_database": sources.app_database,
            "schema_separation": partial(sources.separation, [part.schema for part in parts]),
        }
    ]
    order = ["app_database", "prefect_schema", "schema_separation", "api", "workers"]
    for index, part in enumerate(parts):
        suffix = f":{part.name}" if index else ""
        order += [f"{kind}{suffix}" for kind in ("prefect_schema", "api", "workers") if suffix]
        groups.append(
            {
                f"prefect_schema{suffix}": partial(sources.prefect_schema, part),
                f"workers{suffix}": partial(sources.workers, part),
            }
        )
        groups.append({f"api{suffix}": partial(sources.api, part)})
    results: dict[str, Check] = {}
    deadline = time.monotonic() + timeout
    threads = [threading.Thread(target=_run_group, args=(group, results), daemon=True) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    finished = dict(results)  # a late thread may still write into the other one
    return Health({name: finished.get(name) or _silent(name, timeout) for name in order})


def _silent(name: str, timeout: float) -> Check:
    message = f"The check {name} did not answer within {timeout:g} seconds."
    remedy = "Look at the network to that host, and at what the server is busy with."
    return Check(UNHEALTHY, [Problem("no_answer", name, message, remedy)])


def _run_group(group: dict[str, Probe], results: dict[str, Check]) -> None:
    for name, probe in group.items():
        started = time.monotonic()
        try:
            problems, details = probe()
        except ConnectionFailed as failed:
            problems, details = [failed.problem], {}
        except Exception as error:
            # Whatever it was, this check must say so and the others must go on.
            remedy = "Look into the log of the part that this check asks."
            problems, details = [Problem("check_failed", name, f"The check {name} failed: {error}".strip(), remedy)], {}
        severities = {problem.severity for problem in problems}
        status = UNHEALTHY if ERROR in severities else DEGRADED if WARNING in severities else HEALTHY
        details["latency_ms"] = round((time.monotonic() - started) * 1000, 1)
        results[name] = Check(status, problems, details)


_SEPARATION = """
WITH declared AS (SELECT unnest({}::text[])::name AS nspname)
SELECT ARRAY(SELECT nspname::text FROM declared WHERE nspname NOT IN (SELECT nspname FROM pg_namespace)),
       (SELECT array_agg(relname::text) FROM pg_class WHERE relnamespace = to_regnamespace('public')) @> {}::text[],
       ARRAY(SELECT nspname || ' ' || privilege_type
             FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
             WHERE grantee = 0
               AND (nspname IN (SELECT nspname FROM declared) OR nspname = 'public' AND privilege_type = 'CREATE')
             ORDER BY 1)
"""

# Prefect calls a worker offline after three of its own intervals without a sign of life.
_WORKERS = """
SELECT count(*) FILTER (WHERE age < 3 * coalesce(heartbeat_interval_seconds, 30)), count(*), min(age)
FROM (SELECT heartbeat_interval_seconds, extract(epoch FROM now() - last_heartbeat_time)::float8 AS age FROM {}) w
"""


@dataclass
class _Sources:
    login: Login
    database: str
    timeout: float

    def ask(self, statement: Statement) -> Any:
        """Return the one row of a statement, on a connection of its own."""
        connection = connect(self.login, self.database, max(2, int(self.timeout / 2)), self.timeout / 4)
        try:
            connection.set_session(readonly=True)
            with connection, connection.cursor() as cursor:
                statement.execute(cursor)
                return cursor.fetchone()
        finally:
            connection.close()

    def app_database(self) -> Finding:
        version, size = self.ask(
            Statement("SELECT current_setting('server_version'), pg_database_size(current_database())")
        )
        return [], {"server_version": version, "size_bytes": size}

    def separation(self, schemas: list[str]) -> Finding:
        missing, strays, public = self.ask(Statement(_SEPARATION, (Value(schemas), Value(list(SIGNATURE)))))
        verify = "Run playbooks/verify.yml, which says what to do about each difference."
        problems = [
            Problem("schema_missing", f"schema {schema}", f"The schema {schema} does not exist.", verify)
            for schema in missing
        ]
        if strays:
            message = "Prefect's tables are in the schema public, among the application's."
            problems.append(Problem("prefect_in_public", "schema public", message, verify))
        if public:
            message = f"PUBLIC has rights that break the separation of the schemas: {', '.join(public)}."
            problems.append(Problem("right_excess", "schemas", message, verify))
        return problems, {}

    def prefect_schema(self, part: Part) -> Finding:
        table = quote((part.schema, "alembic_version"))
        if self.ask(Statement("SELECT to_regclass({})", (Value(table),))) == (None,):
            message = f"The schema {part.schema} holds no Prefect: there is no {table}."
            remedy = f"systemctl start prefect-migrate@{part.name}"
            return [Problem("prefect_tables_missing", f"schema {part.schema}", message, remedy)], {}
        names = [Names(((part.schema, name),)) for name in ("alembic_version", "flow_run")]
        template = "SELECT (SELECT max(version_num) FROM {}), EXISTS (SELECT FROM {})"
        revision, used = self.ask(Statement(template, tuple(names)))
        return [], {"revision": revision, "has_flow_runs": used}

    def workers(self, part: Part) -> Finding:
        online, known, age = self.ask(Statement(_WORKERS, (Names(((part.schema, "worker"),)),)))
        details = {"online": online, "known": known, "expected": part.workers, "youngest_heartbeat_s": age}
        if online >= part.workers:
            return [], details
        problem = Problem(
            "workers_offline",
            f"tenant {part.name}",
            f"Of {part.workers} declared workers {online} are online.",
            f"systemctl list-units 'prefect-worker@{part.name}-*' on the workers' hosts, and their journal",
            WARNING if online else ERROR,
        )
        return [problem], details

    def api(self, part: Part) -> Finding:
        problems = []
        for path, remedy in (
            ("/health", f"systemctl status prefect-server@{part.name}, and its journal"),
            ("/ready", f"The server runs but does not reach its database: journalctl -u prefect-server@{part.name}"),
        ):
            url = part.api_url + path
            try:
                json.loads(get(url, self.timeout / 2))
            except (OSError, ValueError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                problems.append(
                    Problem("api_not_ready", f"api {url}", f"{url} does not answer well: {reason}.", remedy)
                )
                break
        return problems, {"url": part.api_url}
