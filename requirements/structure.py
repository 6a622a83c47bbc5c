"""Record the structure of Prefect's schema after its migrations. Run by requirements/structure."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

from pgprefect.schema.foreign import read_objects
from pgprefect.schema.revision import head_of, installed_migrations
from pgprefect.schema.structure import as_text, read_structures
from pgprefect.schema.structure_data import STRUCTURES

from tests.support.postgresql import running_postgresql
from tests.support.project import ROOT, VIRTUALENV
from tests.support.site import Site, migrated_site

OUTPUT = ROOT / "module_utils/pgprefect/schema/structure_data.py"
HEADER = '''"""What releases of Prefect make of their schema, by newest migration. Made by requirements/structure."""

# ruff: noqa: E501

from __future__ import annotations

# One part on each line: kind, table, name and definition.
STRUCTURES: dict[str, str] = {
'''


def fresh_structure(site: Site) -> str:
    """Return the structure of a migrated site in the format of the file."""
    with contextlib.closing(site.server.connect(site.database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET search_path TO pg_catalog")
        schema, extensions = site.tenant.schema, site.declaration.extensions_schema
        parts = [read(cursor, [schema], extensions)[schema] for read in (read_structures, read_objects)]
        return as_text({**parts[0], **parts[1]})


def main() -> None:
    """Migrate an empty database, read its structure, and write it to the file."""
    head = head_of(installed_migrations(str(VIRTUALENV)))
    with running_postgresql() as server, tempfile.TemporaryDirectory() as home:
        structures = {**STRUCTURES, head: fresh_structure(migrated_site(server, "structure", Path(home)))}
    entries = [f'    {json.dumps(revision)}: """\\\n{_escaped(text)}""",\n' for revision, text in structures.items()]
    OUTPUT.write_text(HEADER + "".join(entries) + "}\n")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


if __name__ == "__main__":
    main()
