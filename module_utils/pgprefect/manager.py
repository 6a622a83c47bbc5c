"""Connections for programs: to the application's tables, and to Prefect's beside them.

    from pgprefect import get_db_manager, get_prefect_db_manager

Where to log in is taken from the arguments, else from libpq's variables (PGDATABASE, PGUSER, ...) as workers give them
to flows, else from the file that the roles write on each host. Connections are kept in one pool for each process,
login and search path. It needs SQLAlchemy, which Prefect brings.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .analytics.report import Report, make_report
from .core.connection import Login, connect
from .core.errors import PgprefectError
from .events.buffer import EventBuffer
from .events.write import log_workflow_event
from .health.check import check_health, check_site
from .runs.retention import Policy, clean_up
from .runs.statistics import workflow_statistics
from .schema.declaration import declaration_of
from .schema.verify import verify_site
from .site import configuration, environment
from .site.configuration import ConfigurationError, Site, Tenant

if TYPE_CHECKING:
    import sqlalchemy

POOL_SIZE = 5
POOL_TIMEOUT = 30.0  # seconds that a thread waits for a connection
POOL_RECYCLE = 1800  # seconds after which a connection is replaced


class PoolExhausted(PgprefectError):
    """All connections of a pool were in use for longer than a thread waits."""


@dataclass
class Pool:
    """At most ``size`` connections of one process, by one login and with one search path.

    It is safe to use from threads, starts empty in a forked child, and replaces connections that a restart of the
    server has closed.
    """

    login: Login
    database: str
    search_path: tuple[str, ...]
    size: int = POOL_SIZE
    waits: int = 0
    waited_seconds: float = 0.0
    _engine: sqlalchemy.Engine = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import sqlalchemy

        self._engine = sqlalchemy.create_engine(
            "postgresql+psycopg2://",
            creator=lambda: connect(self.login, self.database, search_path=self.search_path),
            pool_size=self.size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT,
            pool_recycle=POOL_RECYCLE,
            pool_pre_ping=True,
            use_native_hstore=False,
        )
        # A child must not use its parent's sockets.
        os.register_at_fork(after_in_child=lambda: self._engine.dispose(close=False))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection; commit at the end, or roll back on an error.

        Raises ConnectionFailed and PoolExhausted.
        """
        import sqlalchemy.exc

        started = time.monotonic()
        all_used = self.used >= self.size
        try:
            connection = self._engine.connect()
        except sqlalchemy.exc.TimeoutError as error:
            message = (
                f"All {self.size} connections to {self.database} of this process were in use for {POOL_TIMEOUT:g} s. "
                "Look for a connection that is kept open, or give the manager a larger pool_size."
            )
            raise PoolExhausted(message) from error
        finally:
            if all_used:
                self.waits += 1
                self.waited_seconds += time.monotonic() - started
        with connection, connection.begin():
            yield Connection(connection)

    @property
    def used(self) -> int:
        """The number of connections that are in use just now."""
        return int(self._engine.pool.checkedout())  # type: ignore[attr-defined]

    def as_dict(self) -> dict[str, Any]:
        """Return use, limit, and how often and how long threads waited for a connection, in seconds."""
        return {"used": self.used, "limit": self.size, "waits": self.waits, "waited_seconds": self.waited_seconds}

    def close(self) -> None:
        """Close the connections that nobody uses, and the others when they come back."""
        self._engine.dispose()


@dataclass(frozen=True)
class Connection:
    """SQL as text, with the driver's parameters: ``execute("... WHERE name = %(name)s", {"name": "x"})``."""

    wrapped: sqlalchemy.Connection

    def execute(
        self, statement: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> sqlalchemy.CursorResult[Any]:
        """Run one statement and return SQLAlchemy's result, with ``fetchall()``, ``scalar()``, ``mappings()``, ..."""
        values = parameters if parameters is None or isinstance(parameters, Mapping) else tuple(parameters)
        return self.wrapped.exec_driver_sql(statement, values)

    @property
    def driver(self) -> Any:
        """The psycopg2 connection below, for the functions of this package."""
        return self.wrapped.connection.driver_connection


_pools: dict[tuple[Login, str, tuple[str, ...]], Pool] = {}
_lock = threading.Lock()


def _pool(login: Login, database: str, search_path: Sequence[str], size: int) -> Pool:
    key = (login, database, tuple(search_path))
    with _lock:
        if key not in _pools:
            _pools[key] = Pool(*key, size=size)
        return _pools[key]


def _settings(login: Login | None, database: str | None) -> tuple[Login, str, Site | None]:
    """Return the login, the database, and the site's file where there is one."""
    site = None
    path = os.environ.get("PGPREFECT_CONFIG", configuration.PATH)
    with contextlib.suppress(ConfigurationError):
        site = configuration.load(path)
    found = environment.application(os.environ)
    if login is None and found:
        login, database = found[0], database or found[1]
    if login is None:
        site = site or configuration.load(path)  # raises the reason
        login = site.application
    database = database or (site.database if site else None)
    if not database:
        raise ConfigurationError("No database is named: give it as an argument, or set PGDATABASE.")
    return login, database, site


class DatabaseManager:
    """The application's tables, in ``public``; Prefect's can be read by their names too."""

    def __init__(
        self,
        login: Login | None = None,
        database: str | None = None,
        schema: str | None = None,
        pool_size: int = POOL_SIZE,
    ) -> None:
        self.login, self.database, self.site = _settings(login, database)
        self.tenant = self.site.tenant(os.environ.get("PGPREFECT_TENANT")) if self.site else None
        self.schema = schema or (self.tenant.schema if self.tenant else "prefect")
        self.app_schema = declaration_of(self.site).app_schema if self.site else "public"
        self.pool = _pool(self.login, self.database, (self.app_schema, self.schema), pool_size)

    @contextlib.contextmanager
    def get_connection(self) -> Iterator[Connection]:
        """Yield a connection in one transaction. Raises ConnectionFailed and PoolExhausted."""
        with self.pool.transaction() as connection:
            yield connection

    def close(self) -> None:
        """Close this pool's connections; the manager can be used again."""
        self.pool.close()


class PrefectDatabaseManager(DatabaseManager):
    """Prefect's tables in their schema beside the application's: sessions, events, health, statistics, cleanup."""

    @contextlib.contextmanager
    def prefect_session(self) -> Iterator[Connection]:
        """Yield a connection whose search path is Prefect's schema. Raises ConnectionFailed and PoolExhausted."""
        path = (self.schema, declaration_of(self.site).extensions_schema if self.site else "extensions")
        with _pool(self.login, self.database, path, self.pool.size).transaction() as connection:
            yield connection

    @contextlib.contextmanager
    def _driver(self) -> Iterator[Any]:
        with self.get_connection() as connection:
            yield connection.driver

    @functools.cached_property
    def _events(self) -> EventBuffer:
        return EventBuffer(self._driver)

    def log_workflow_event(
        self,
        event_type: str,
        workflow_name: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        message: str | None = None,
        level: str | None = None,
        flow_run_id: Any = None,
        connection: Connection | None = None,
        buffered: bool = False,
        strict: bool = False,
    ) -> bool:
        """Append an event to the application's table; see ``pgprefect.events``. Return whether it was written.

        With a connection it is part of that transaction. A buffered one is written with others, within two seconds or
        by ``flush_events``. One that cannot be written goes to the flow run's log, or with ``strict`` its error comes.
        """
        if buffered:
            self._events.log(
                event_type, workflow_name, status, metadata, message=message, level=level, flow_run_id=flow_run_id
            )
            return True
        return log_workflow_event(
            event_type,
            workflow_name,
            status,
            metadata,
            message=message,
            level=level,
            flow_run_id=flow_run_id,
            cursor=connection.driver.cursor() if connection else None,
            connect=self._driver,
            strict=strict,
        )

    def flush_events(self) -> None:
        """Write the buffered events now."""
        self._events.flush()

    def get_workflow_statistics(self, days: float = 30) -> dict[str, Any]:
        """Return totals, and figures of the last days; see ``runs.statistics``. Raises StatisticsUnavailable."""
        with self.prefect_session() as session:
            return workflow_statistics(session.driver, self.schema, days).as_dict()

    def get_workflow_report(self, days: float = 7) -> Report:
        """Return what ``analytics.report`` writes as Markdown or HTML. Raises InputError and StatisticsUnavailable."""
        with self.prefect_session() as session:
            return make_report(session.driver, self.schema, days)

    def health_check(self, timeout: float = 4.0) -> dict[str, Any]:
        """Ask the database, the servers and the workers, within so many seconds; see ``health.check``.

        ``pool`` has this manager's connections. Without the site's file only this schema and its API
        ($PREFECT_API_URL) are known.
        """
        if self.site:
            health = check_site(self.site, self._given_login, timeout)
        else:
            api_url = os.environ.get("PREFECT_API_URL", "http://127.0.0.1:4200/api")
            health = check_health(
                self.login, self.database, [Tenant(self.schema, self.schema, api_url=api_url)], timeout
            )
        return {**health.as_dict(), "pool": self.pool.as_dict()}

    def cleanup_old_workflow_data(self, days_to_keep: float | None = None, **policy: Any) -> dict[str, Any]:
        """Delete what the site's policy, or the given one, does not keep; see ``runs.retention``.

        It logs in as the tenant's server role where this host has its password. Raises PolicyError, ConnectionFailed
        and RetentionError, which says which role may delete.
        """
        given = {**(self.site.retention if self.site else {}), **policy}
        if days_to_keep is not None:
            given["days_to_keep"] = days_to_keep
        rules = Policy.from_arguments(given)
        with contextlib.ExitStack() as stack:
            connections = [
                stack.enter_context(contextlib.closing(connect(login, self.database)))
                for login in self._deleting_logins()
            ]
            return clean_up(connections[0], self.schema, rules, None, *connections[1:]).as_dict()

    @property
    def _given_login(self) -> Login | None:
        """The login that the site's file does not name, if this manager has one."""
        return None if self.site and self.login == self.site.application else self.login

    def _deleting_logins(self) -> list[Login]:
        """Return the logins that delete, vacuum and observe; a flow has only its own."""
        if not (self.site and self.tenant) or self._given_login:
            return [self.login]
        return [self.site.login_as(self.tenant.server), self.site.login_as(self.tenant.migrator), self.site.observer]

    def verify_schema_separation(self) -> dict[str, Any]:
        """Compare the database with what the site's file declares. Raises ConfigurationError."""
        site = self.site or configuration.load()
        report = verify_site(site, self._given_login)
        result = asdict(report)
        tenant = self.tenant or site.tenant()
        return {"verified": report.verified, "prefect_schema": result["tenants"][tenant.name], **result}


@functools.cache
def get_db_manager() -> DatabaseManager:
    """Return this process's manager of the application's tables. Raises ConfigurationError."""
    return DatabaseManager()


@functools.cache
def get_prefect_db_manager() -> PrefectDatabaseManager:
    """Return this process's manager of both schemas. Raises ConfigurationError."""
    return PrefectDatabaseManager()
