"""Events of the application and of its flows: ``from pgprefect.events import log_workflow_event``.

A name is loaded when it is first asked for, so that whoever needs one part does not load the others.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "EventBuffer": ".buffer",
    "EventTable": "..schema.event_table",
    "json_value": ".model",
    "log_flow_run": ".write",
    "log_workflow_event": ".write",
    "read_events": ".read",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
