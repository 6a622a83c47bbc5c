"""The error of an import, and the problems that several parts of it report."""

from __future__ import annotations

from ..core.errors import ProblemError
from ..core.problems import Problem


class ImportRefused(ProblemError):
    """A file cannot be imported; nothing has changed."""


def damaged(path: str, reason: str) -> ImportRefused:
    """Return the error of a file that SQLite cannot read to its end."""
    message = f"SQLite finds {path} damaged: {reason}."
    remedy = (
        "Stop the old server and let `sqlite3 FILE .recover` write what can be read into a new file, or take an older "
        "copy of the file; import that one."
    )
    return ImportRefused(Problem(code="import_damaged", object=path, message=message, remedy=remedy))


def not_prefect(path: str, reason: str) -> ImportRefused:
    """Return the error of a file that is not a Prefect server's."""
    message = f"{path} is not the database of a Prefect server: {reason}."
    remedy = (
        "Name the file of PREFECT_SERVER_DATABASE_CONNECTION_URL; where that is not set, it is prefect.db in the "
        "folder .prefect of the user that runs the old server."
    )
    return ImportRefused(Problem(code="import_not_prefect", object=path, message=message, remedy=remedy))
