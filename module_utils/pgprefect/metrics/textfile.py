"""The file from which the node exporter takes metrics."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from ..core.errors import ProblemError
from ..core.problems import Problem


class TextfileError(ProblemError):
    """The file cannot be written."""


def write(path: Path, text: str) -> None:
    """Replace a file at once: a reader finds the former one or the new one, and a full disk leaves the former.

    A link in its place is replaced, not followed. Raises TextfileError.
    """
    new = None
    try:
        # The node exporter reads what ends with .prom.
        number, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            os.fchmod(number, 0o644)
            file.write(text)
            file.flush()
            os.fsync(number)
        os.replace(new, path)
    except OSError as error:
        if new is not None:
            with contextlib.suppress(OSError):
                os.unlink(new)
        message = f"The metrics are not written to {path}: {error.strerror}."
        remedy = "Create its folder, let this user write there, and see that the disk has room: df -h, df -i"
        raise TextfileError(Problem("textfile_not_written", f"path {path}", message, remedy)) from error
