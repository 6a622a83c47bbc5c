"""Where things are."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
VIRTUALENV = Path(os.environ.get("PREFECT_VIRTUALENV", ROOT / ".venv-prefect"))
