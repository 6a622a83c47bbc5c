"""A checkout with an inventory of its own, in which the administrator of a cluster types what the pages tell."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.kubernetes import PROGRAMS, Cluster
from tests.support.pages import sections
from tests.support.project import ROOT


@dataclass(frozen=True)
class Checkout:
    """The folder, which is made, and the cluster that kubectl knows."""

    folder: Path
    cluster: Cluster

    def __post_init__(self) -> None:
        for path in ROOT.iterdir():
            if path.name not in ("inventory", ".git"):
                (self.folder / path.name).symlink_to(path)
        self.inventory.mkdir(parents=True)
        self._config.write_text(json.dumps(self.cluster.kubeconfig()))

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory/mine"

    @property
    def _config(self) -> Path:
        return self.folder / "administrator.json"

    def declare(self, site: dict[str, Any]) -> None:
        """Write the inventory: what is below its group `all`."""
        (self.inventory / "hosts.yml").write_text(json.dumps({"all": site}))

    def run(self, command: str) -> str:
        """Run a command and return what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "KUBECONFIG": str(self._config)},
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def typed(self, page: str, heading: str) -> list[str]:
        """Type the commands of a page's section and return what each printed."""
        return [self.run(command) for _, command in sections(page)[heading]]
