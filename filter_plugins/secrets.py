"""Filters about the secrets that the controller keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def secret_files(names: Sequence[str], folder: str, check_mode: bool = False) -> list[str]:
    """Return the file of each secret; in check mode one that is not there yet is made and not kept."""
    files = [Path(folder, name) for name in names]
    return [str(file) if not check_mode or file.exists() else "/dev/null" for file in files]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {"secret_files": secret_files}
