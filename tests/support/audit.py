"""A PostgreSQL whose audit trail is on, with the settings of the role postgresql."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pgprefect.audit.read import Entry, Trail, read_trail
from pgprefect.schema import audit

from tests.support.postgresql import Server, running_postgresql
from tests.support.site import TRADING_SQL, Site, declaration_of, migrate, pgprefect

LOG = "/tmp/log/postgresql"
OPTIONS = (
    "-c shared_preload_libraries=pgaudit -c logging_collector=on -c log_destination=stderr,jsonlog "
    "-c log_directory=/tmp/log -c log_filename=postgresql.log -c pgaudit.log_catalog=off "
    "-c pgaudit.log_parameter=off"
)


@dataclass
class Audited(Site):
    """A site with an audit trail, and the file to which that is copied to be read."""

    copy: Path

    def trail(self, **asked: object) -> Trail:
        """What the server has recorded so far."""
        content = self.raw("json")
        self.copy.write_bytes(content)
        return read_trail(str(self.copy), **{"limit": 100_000, **asked})  # type: ignore[arg-type]

    def raw(self, kind: str) -> bytes:
        """The server's log as it is, ``json`` or ``log``."""
        command = ["docker", "exec", self.server.container, "cat", f"{LOG}.{kind}"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def entries(self, word: str) -> list[Entry]:
        """What was recorded with a word in its statement, the oldest first."""
        return [entry for entry in reversed(self.trail().entries) if word in entry.statement]

    def audit(self) -> list[str]:
        """Make the audit as it is declared, and return the statements that this took."""
        return [str(change.statement) for change in audit.apply(self.server.login, self.declaration)]


@contextlib.contextmanager
def audited_site(folder: Path, database: str = "audited") -> Iterator[Audited]:
    """A site with the tables of a real Prefect, whose migration is in the trail too."""
    with running_postgresql("--tmpfs", "/var/lib/postgresql", "--env", f"POSTGRES_OPTIONS={OPTIONS}") as server:
        yield prepared(server, database, folder)


def prepared(server: Server, database: str, folder: Path) -> Audited:
    declaration = replace(declaration_of(database), audit=True, audit_tables=("public.orders",))
    site = Audited(server, declaration, folder / "trail.json")
    site.server.sql("postgres", "ALTER SYSTEM SET pgaudit.log = 'ddl, role'")
    site.server.sql("postgres", "SELECT pg_reload_conf()")
    site.apply(app_schema_sql=TRADING_SQL)
    site.audit()
    done = migrate(site.environment(), folder)
    assert "Migrations succeeded" in done.stdout, done.stdout
    assert pgprefect("revoke-secrets", environment=site.environment()).returncode == 0
    site.audit()
    return site
