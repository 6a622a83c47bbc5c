"""Prefect's schema beside an application's in one PostgreSQL database: all that this project knows about the two.

Plain functions over an open DB-API connection. The same package serves the Ansible modules on a host, Python programs
and the command ``pgprefect``; so it imports neither ansible nor prefect, and only relatively from itself. What programs
import from it is loaded when it is first asked for: a module that Ansible sends to a host stays small.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Ansible sends to a host whatever an import names, also one that is only for type checkers.
__all__ = ["DatabaseManager", "PrefectDatabaseManager", "get_db_manager", "get_prefect_db_manager", "log_flow_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".events.write" if name == "log_flow_run" else ".manager", __name__), name)
