"""A gate before a migration, whose program is loaded while the server runs, and begins when it has stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

GATES = Path("/run/prefect-upgrade")
# The file by which the program says that it is loaded, in its unit's folder below /run.
LOADED = "loaded"
_FOLDER = "prefect-migrate"

# Prefect's program takes seconds to load. What is loaded is also what the server needs, so that a release which cannot
# be loaded on this host fails before anything stops.
_PROGRAM = """
import contextlib, importlib, os, runpy, sys, time
gate, loaded, *sys.argv = sys.argv[1:]
import alembic.command, prefect.server.api.server
import prefect.server.database.alembic_commands, prefect.server.database.orm_models
for name in ("prefect.cli.root", "prefect.cli.server"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
open(loaded, "x").close()
with contextlib.suppress(FileNotFoundError):
    while True:
        with open(gate) as file:
            keeper = int(file.read())
        try:
            os.kill(keeper, 0)
        except ProcessLookupError:
            sys.exit("What was to stop the server has ended, so nothing was migrated.")
        except PermissionError:
            pass
        time.sleep(0.05)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def gate_of(tenant: str) -> Path:
    """Return the gate of a tenant's migration."""
    return GATES / tenant


def loaded_file(tenant: str) -> Path:
    """Return the file that is there while a tenant's migration is loaded."""
    return Path("/run", _FOLDER, tenant, LOADED)


@contextlib.contextmanager
def closed_gate(tenant: str) -> Iterator[Path]:
    """Keep a tenant's next migration waiting; the caller removes the file to open the gate. Ends with no gate."""
    GATES.mkdir(exist_ok=True)
    GATES.chmod(0o755)
    gate = gate_of(tenant)
    partial = gate.with_suffix(".new")
    partial.write_text(str(os.getpid()), encoding="ascii")
    partial.chmod(0o644)
    partial.rename(gate)
    try:
        yield gate
    finally:
        gate.unlink(missing_ok=True)


def is_kept(gate: Path) -> bool:
    """Return whether the gate is closed, and who closed it is still there to open it."""
    try:
        os.kill(int(gate.read_text(encoding="ascii")), 0)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def behind_gate(python: str, command: Sequence[str], gate: Path, loaded: Path) -> list[str]:
    """Return the command that loads Prefect's program, says so, and runs it when the gate is open."""
    return [python, "-I", "-c", _PROGRAM, str(gate), str(loaded), *command]
