"""What another release of Prefect changes for this project, and whether it works. Run by requirements/lock."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pgprefect.core.prefect import ENUMS, NEWER, SECRET_COLUMNS, TABLES, TERMINAL_STATES
from pgprefect.runs.cleanup_sql import CLEANED_TABLES
from pgprefect.schema.revision import installed_migrations, migration_files
from pgprefect.schema.structure import KINDS, Structure, known_structure

from bench.support import prefect_server
from tests.support.project import DEFAULT, ROOT, virtualenv_of
from tests.support.site import Site
from tests.support.waiting import wait_for

# Prints the variables that a release reads, with those of its worker of Kubernetes pools and of Redis.
_SETTINGS = """
import json
from prefect.settings.legacy import _get_settings_fields
from prefect.settings.models.root import Settings
from prefect_kubernetes.settings import KubernetesSettings
from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings
from prefect_redis.client import RedisMessagingSettings
from prefect_redis.messaging import RedisMessagingPublisherSettings as PublisherSettings
models = (Settings, KubernetesSettings, RedisMessagingSettings, PublisherSettings, RedisWorkerCleanupQueueSettings)
names = [name for model in models for name in _get_settings_fields(model)]
print(json.dumps([name for name in names if name.startswith("PREFECT_")]))
"""
# Declares a deployment with a schedule, and runs its flow.
_FLOW = """
from prefect import flow, task
@task
def double(number): return 2 * number
@flow
def proof(): return double(21)
if __name__ == "__main__":
    proof.to_deployment("proof", interval=3600).apply()
    assert proof() == 42
"""
# The server's scheduler made runs, and the flow ended with its task.
_PROVED = """
SELECT count(*) FILTER (WHERE r.auto_scheduled AND r.state_type = 'SCHEDULED') > 0
   AND count(*) FILTER (WHERE r.state_type = 'COMPLETED' AND t.state_type = 'COMPLETED') = 1
FROM prefect.flow_run r JOIN prefect.flow f ON f.id = r.flow_id LEFT JOIN prefect.task_run t ON t.flow_run_id = r.id
WHERE f.name = 'proof'
"""


def settings_of(release: str) -> set[str]:
    """Return the environment variables that a release of Prefect reads."""
    python = virtualenv_of(release) / "bin/python"
    found = subprocess.run([python, "-I", "-c", _SETTINGS], check=True, stdout=subprocess.PIPE, text=True).stdout
    return set(json.loads(found))


def our_settings() -> set[str]:
    """Return the environment variables of Prefect that roles and pgprefect set."""
    paths = [*ROOT.glob("roles/prefect_*/vars/main.yml"), ROOT / "module_utils/pgprefect/core/prefect.py"]
    return {
        name for path in paths for name in re.findall(r"^ +\"?(PREFECT_[A-Z_]+)\"?:", path.read_text(), re.MULTILINE)
    }


def broken_assumptions(site: Site, structure: Structure, known: Structure, settings: set[str]) -> Iterator[str]:
    """Yield what this project relies on and a release does not keep; ``known`` is the structure of the default one."""
    tables = {
        name
        for (name,) in site.sql(
            "SELECT relname FROM pg_class WHERE relnamespace = 'prefect'::regnamespace AND relkind IN ('r', 'p', 'v')"
        )
    }
    yield from (f"no table {name}: core/prefect.py, TABLES" for name in sorted(TABLES - NEWER - tables))
    yield from (f"an unknown table {name}: core/prefect.py, TABLES" for name in sorted(tables - TABLES))
    enums = {
        name
        for (name,) in site.sql(
            "SELECT typname FROM pg_type WHERE typnamespace = 'prefect'::regnamespace AND typtype = 'e'"
        )
    }
    yield from (f"the enum {name} came or went: core/prefect.py, ENUMS" for name in sorted(enums ^ set(ENUMS)))
    states = {name for (name,) in site.sql("SELECT unnest(enum_range(NULL::prefect.state_type))::text")}
    yield from (f"no state {name}: core/prefect.py, TERMINAL_STATES" for name in sorted(set(TERMINAL_STATES) - states))
    columns = {(part.table, part.name) for part in structure if part.kind == "column"}
    secret = {(table, column) for table, names in SECRET_COLUMNS.items() for column in names}
    yield from (f"no column {'.'.join(name)}: core/prefect.py, SECRET_COLUMNS" for name in sorted(secret - columns))
    keys, known_keys = foreign_keys(structure), foreign_keys(known)
    for table, definition in sorted(keys ^ known_keys):
        verb = "came" if (table, definition) in keys else "went"
        target = re.search(r"REFERENCES \$schema\.(\w+)", definition)
        if table in CLEANED_TABLES or (target and target[1] in CLEANED_TABLES):
            yield f"a foreign key of {table} {verb} ({definition}): runs/cleanup_sql.py, runs/trees.py"
    yield from (f"{name} is no setting any more, and we set it: roles/" for name in sorted(our_settings() - settings))


def foreign_keys(structure: Structure) -> set[tuple[str, str]]:
    """Return the tables and definitions of foreign keys."""
    found = ((part.table, value.definition) for part, value in structure.items() if part.kind == "constraint")
    return {(table, definition) for table, definition in found if definition.startswith("FOREIGN KEY")}


def prove(site: Site, release: str) -> None:
    """Start a release's server on its migrated tables, run a flow, and wait until another one is scheduled."""
    virtualenv = virtualenv_of(release)
    with prefect_server(site, virtualenv) as url, tempfile.TemporaryDirectory() as home:
        (Path(home) / "proof.py").write_text(_FLOW)
        done = subprocess.run(
            [virtualenv / "bin/python", "proof.py"],
            cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": home, "PREFECT_HOME": home, "PREFECT_API_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        wait_for(lambda: site.sql(_PROVED)[0][0], lambda: done.stdout)


def _changes(structure: Structure, known: Structure) -> Iterator[str]:
    """Yield the parts of the schema that a release has not, or has otherwise; those of a new table go with it."""
    tables, known_tables = ({part.table for part in parts if part.table} for parts in (structure, known))
    yield from (f"+ table {table}" for table in tables - known_tables)
    yield from (f"- table {table}" for table in known_tables - tables)
    for part in {*structure, *known}:
        have, want = known.get(part), structure.get(part)
        if have == want or part.kind not in KINDS or part.table in tables ^ known_tables:
            continue
        sign = "~" if have and want else "+" if want else "-"
        definition = (want or have).definition  # type: ignore[union-attr]  # one of them is there
        yield f"{sign} {part.kind} {f'{part.table}.' if part.table else ''}{part.name}: {definition}"


def _titles(release: str, revisions: set[str]) -> list[str]:
    """Return revisions with what their files say that they do."""
    files = migration_files(str(virtualenv_of(release)))
    titles = {name: ast.get_docstring(ast.parse(text)) or "" for name, text in files.items() if name in revisions}
    return [" ".join((name, title.partition("\n")[0])) for name, title in titles.items()]


def _list(title: str, lines: list[str]) -> None:
    """Print a title with its lines."""
    print(f"{title}: {len(lines) or 'none'}", *(f"  {line}" for line in lines), sep="\n")


def report(release: str, default_site: Site, site: Site) -> int:
    """Print what a release changes, and return 1 where it breaks what this project relies on."""
    migrations, known_migrations = (installed_migrations(str(virtualenv_of(name))) for name in (release, DEFAULT))
    heads = [place.sql("SELECT version_num FROM prefect.alembic_version")[0][0] for place in (site, default_site)]
    structure, known = (known_structure(head) or {} for head in heads)
    settings, known_settings = settings_of(release), settings_of(DEFAULT)
    print(f"Prefect {release} compared with {DEFAULT}:")
    _list("migrations", _titles(release, set(migrations) - set(known_migrations)))
    _list("schema", sorted(_changes(structure, known)))
    signs = {name: "+" if name in settings else "-" for name in settings ^ known_settings}
    _list("settings", sorted(f"{sign} {name}" for name, sign in signs.items()))
    broken = list(broken_assumptions(site, structure, known, settings))
    _list("relied upon and gone", broken)
    return 1 if broken else 0
