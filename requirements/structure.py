"""Record the structure of Prefect's schema after its migrations. Run by requirements/structure."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path

from pgprefect.schema.foreign import read_objects
from pgprefect.schema.revision import head_of, installed_migrations
from pgprefect.schema.structure import as_text, known_structure, read_structures, recorded
from pgprefect.schema.structure_data import STRUCTURES

from requirements.release import prove, report
from tests.support.postgresql import running_postgresql
from tests.support.project import DEFAULT, RELEASES, ROOT, virtualenv_of
from tests.support.site import Site, migrated_site

OUTPUT = ROOT / "module_utils/pgprefect/schema/structure_data.py"
HEADER = '''"""What releases of Prefect make of their schema, by newest migration. Made by requirements/structure."""

# ruff: noqa: E501

from __future__ import annotations

# One part on each line: kind, table, name and definition. After `= REVISION` only what changes in that one follows.
STRUCTURES: dict[str, str] = {
'''


def fresh_structure(site: Site) -> str:
    """Return the structure of a migrated site in the format of ``as_text``."""
    with contextlib.closing(site.server.connect(site.database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path TO pg_catalog")
        schema, extensions = site.tenant.schema, site.declaration.extensions_schema
        parts = [read(cursor, [schema], extensions)[schema] for read in (read_structures, read_objects)]
        return as_text({**parts[0], **parts[1]})


def main(release: str | None) -> int:
    """Migrate an empty database by each release, write the structures to the file, and report on a named release."""
    texts = {revision: as_text(known_structure(revision) or {}) for revision in STRUCTURES}
    texts = {revision: text for revision, text in texts.items() if revision not in _heads()}
    with running_postgresql() as server, tempfile.TemporaryDirectory() as home:
        sites: dict[str, Site] = {}
        for revision, name in _heads().items():
            sites[name] = migrated_site(server, f"structure{len(sites)}", Path(home), virtualenv_of(name))
            texts[revision] = fresh_structure(sites[name])
        records = recorded(texts)
        entries = (f'    {json.dumps(name)}: """\\\n{_escaped(text)}""",\n' for name, text in records.items())
        OUTPUT.write_text(HEADER + "".join(entries) + "}\n")
        STRUCTURES.update(records)
        if not release:
            return 0
        status = report(release, sites[DEFAULT], sites[release])
        prove(sites[release], release)
        print("proof: it is ready, ran a flow, and schedules runs")
        return status


def _heads() -> dict[str, str]:
    """Return the locked releases by their newest migrations, the oldest first."""
    return {head_of(installed_migrations(str(virtualenv_of(release)))): release for release in RELEASES}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
