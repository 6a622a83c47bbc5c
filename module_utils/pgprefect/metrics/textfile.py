"""The file from which the node exporter takes metrics."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import ProblemError
from ..core.files import replace_file
from ..core.problems import Problem


class TextfileError(ProblemError):
    """The file cannot be written."""


def write(path: Path, text: str) -> None:
    """Replace the file at once; everybody may read it. Raises TextfileError."""
    try:
        # What is not complete yet does not end with .prom, so the node exporter does not read it.
        replace_file(path, text, 0o644)
    except OSError as error:
        message = f"The metrics are not written to {path}: {error.strerror}."
        remedy = "Create its folder, let this user write there, and see that the disk has room: df -h, df -i"
        raise TextfileError(Problem("textfile_not_written", f"path {path}", message, remedy)) from error
