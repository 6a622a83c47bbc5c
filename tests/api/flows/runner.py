"""Runs flows one after the other in Prefect's environment: a JSON line in for each, a JSON line out.

Importing Prefect takes longer than any of these flows, so all tests share one process. Nothing leads out of it: the
environment's proxy for https is a closed port.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import sys
from typing import Any

sys.path.insert(0, ".")
answers = sys.stdout
sys.stdout = sys.stderr  # whatever a library prints must not come between the answers


class Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def replaced(path: str, value: Any) -> Any:
    module, _, rest = path.partition(":")
    holder = importlib.import_module(module)
    *holders, name = rest.split(".")
    for part in holders:
        holder = getattr(holder, part)
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


for line in sys.stdin:
    order = json.loads(line)
    flow = getattr(importlib.import_module(order["flow"]), order["flow"])
    log = Messages()
    loggers = [logging.getLogger(name) for name in ("prefect.flow_runs", "prefect.task_runs")]
    with contextlib.ExitStack() as stack:
        for path, value in order["replace"].items():
            stack.enter_context(replaced(path, value))
        for logger in loggers:
            logger.addHandler(log)
            stack.callback(logger.removeHandler, log)
        try:
            state = flow(**order["parameters"], return_state=True)
            answer = {
                "state": state.type.value,
                "message": state.message,
                "result": state.result() if state.is_completed() else None,
                "logs": log.messages,
            }
        except TypeError as error:  # parameters that the flow does not have
            answer = {"state": "REFUSED", "message": str(error)}
    print(json.dumps(answer), file=answers, flush=True)
