"""Making an event of what a caller gives, in a form that PostgreSQL takes."""

from __future__ import annotations

import base64
import contextlib
import datetime
import decimal
import enum
import functools
import importlib
import math
import os
import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ..schema.event_table import Event

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


FAILURES = ("failed", "failure", "error", "crashed")


def make_event(
    event_type: str,
    workflow_name: str | None = None,
    status: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    message: str | None = None,
    level: str | None = None,
    flow_run_id: Any = None,
) -> Event:
    """Complete a caller's values and convert them to what PostgreSQL accepts. Raises ValueError."""
    level = (level or ("ERROR" if str(status).lower() in FAILURES else "INFO")).upper()
    if level not in LEVELS:
        raise ValueError(f"The level is {level!r}; it must be one of {', '.join(LEVELS)}.")
    if not event_type:
        raise ValueError("An event needs an event_type, for instance batch_collection.")
    if not isinstance(metadata or {}, Mapping):
        raise ValueError(f"The metadata is of the type {type(metadata).__name__}; it must be a mapping.")
    run = _current_run() if workflow_name is None or flow_run_id is None else {}
    workflow_name = workflow_name if workflow_name is not None else run.get("flow_name")
    flow_run_id = flow_run_id if flow_run_id is not None else run.get("id")
    return Event(
        event_type=_text(event_type),
        workflow_name=None if workflow_name is None else _text(workflow_name),
        status=None if status is None else _text(status),
        metadata=json_value(metadata or {}),
        message=None if message is None else _text(message),
        level=level,
        flow_run_id=None if flow_run_id is None else str(uuid.UUID(str(flow_run_id))),
    )


def json_value(value: Any, depth: int = 0) -> Any:
    """Convert any value to what jsonb accepts, and lose nothing silently: what JSON cannot express becomes a text.

    A character that PostgreSQL refuses becomes its escape (``\\u0000``), NaN and the infinities become texts, decimals,
    UUIDs and dates too; what nests deeper than 50 levels, or is of another type, becomes its repr().
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return json_value(value.value, depth)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return int(value) if abs(value) < 10**300 else hex(value)  # Python writes no number of 4300 digits
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    try:
        if depth < 50:
            if is_dataclass(value) and not isinstance(value, type):
                value = {column.name: getattr(value, column.name) for column in fields(value)}
            if isinstance(value, Mapping):
                return unique_keys(value.items(), depth)
            if isinstance(value, (list, tuple, set, frozenset)):
                return [json_value(item, depth + 1) for item in value]
            if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
                return json_value(value.tolist(), depth + 1)
        return _text(repr(value))
    except Exception as error:
        return f"<{type(value).__qualname__}, which raised {type(error).__name__}>"


def unique_keys(items: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
    """Make keys texts, as in JSON; where 1 and "1" would collide, the second gets a number appended."""
    result: dict[str, Any] = {}
    for key, value in items:
        name = wanted = _text(key) if isinstance(key, str) else str(json_value(key, depth + 1))
        number = 1
        while name in result:
            number += 1
            name = f"{wanted} ({number})"
        result[name] = json_value(value, depth + 1)
    return result


def _text(value: Any) -> str:
    return re.sub("[\0\ud800-\udfff]", lambda found: f"\\u{ord(found.group()):04x}", str(value))


def _current_run() -> dict[str, Any]:
    """Return the flow run in which this code runs.

    Prefect's context knows it, also in a subflow. Where that does not reach, as in a thread of the flow's own or in a
    program that it starts, the variable of the run's process does.
    """
    context = sys.modules.get("prefect.context")
    run: Any = os.environ.get("PREFECT__FLOW_RUN_ID")
    if context:
        inside = context.FlowRunContext.get()
        if inside and inside.flow_run:
            return {"id": inside.flow_run.id, "flow_name": inside.flow.name if inside.flow else None}
        task = context.TaskRunContext.get()
        run = task.task_run.flow_run_id if task else run
    return {"id": run, "flow_name": _flow_name(str(run))} if run else {}


@functools.lru_cache(maxsize=100)
def _flow_name(run: str) -> str | None:  # noqa: ARG001 (the answer is kept for each run)
    """Prefect asks its API for this, here once for each run; its silence must not keep an event out of the database."""
    with contextlib.suppress(Exception):
        if "prefect" in sys.modules:
            return str(importlib.import_module("prefect.runtime.flow_run").flow_name)
    return None
