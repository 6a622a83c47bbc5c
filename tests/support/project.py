"""Where things are."""

from __future__ import annotations

import os
import re
from pathlib import Path

from filter_plugins.libraries import locked_release

ROOT = Path(__file__).parents[2]
PROMETHEUS, PROMTOOL, NODE_EXPORTER = (
    ROOT / ".cache/prometheus" / name for name in ("prometheus", "promtool", "prometheus-node-exporter")
)
VIRTUALENV = Path(os.environ.get("PREFECT_VIRTUALENV", ROOT / ".venv-prefect"))
# The release of Prefect that inventories get which name none, and all that have a lock, the oldest first.
(DEFAULT,) = re.findall(r"default\('([\d.]+)'\)", (ROOT / "playbooks/group_vars/all/prefect.yml").read_text())
# Tables of the default release, with alembic_version.
PREFECT_TABLES = 37
RELEASES = sorted(
    (path.stem.removeprefix("prefect-") for path in (ROOT / "requirements").glob("prefect-*.txt")),
    key=lambda release: [int(number) for number in release.split(".")],
)


def virtualenv_of(release: str) -> Path:
    """Return the virtualenv of a release that has a lock."""
    return VIRTUALENV if release == DEFAULT else ROOT / f".venv-prefect-{release}"


def host_virtualenv(release: str = DEFAULT) -> str:
    """Return the path of a release's virtualenv on a host without pools of containers."""
    locks = [str(ROOT / f"requirements/{name}-{release}.txt") for name in ("prefect", "flows")]
    return f"/opt/prefect/{locked_release(release, locks)}"
