"""A flow run of our own on each work pool, which shows that server, worker and engine work together."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ..core.errors import ProblemError
from ..core.http import ApiError, PrefectApi
from ..core.prefect import TERMINAL_STATES
from ..core.problems import Problem

FLOW = "pgprefect-canary"
_PAUSE_SECONDS = 0.5
_CODE = """
from prefect import flow, task
@task
def double(number): return 2 * number
@flow
def canary(): assert double(21) == 42
"""
# The code comes with the run, into the folder that its worker makes for it: no host must have a file.
_PULL_STEPS = [
    {
        "prefect.deployments.steps.run_shell_script": {
            "script": "sh -c 'printf %s \"$CANARY\" >pgprefect_canary.py'",
            "env": {"CANARY": _CODE},
        }
    }
]


def run_canary(api: PrefectApi, pool: str, seconds: float = 180) -> float:
    """Run the flow on a work pool and return its seconds; nothing of it stays.

    Raises ProblemError where the run does not complete in time, and ApiError.
    """
    started = time.monotonic()
    flow = api.call("POST", "/flows/", {"name": f"{FLOW}-{pool}"})["id"]
    try:
        deployment = {
            "name": pool,
            "flow_id": flow,
            "work_pool_name": pool,
            "entrypoint": "pgprefect_canary.py:canary",
            "pull_steps": _PULL_STEPS,
        }
        made = api.call("POST", "/deployments/", deployment)["id"]
        run = api.call("POST", f"/deployments/{made}/create_flow_run", {})
        while run["state"]["type"] not in TERMINAL_STATES and time.monotonic() - started < seconds:
            time.sleep(_PAUSE_SECONDS)
            run = api.call("GET", f"/flow_runs/{run['id']}")
        if run["state"]["type"] != "COMPLETED":
            raise ProblemError(_failed(pool, run["state"], seconds))
    finally:
        with contextlib.suppress(ApiError):
            api.call("DELETE", f"/flows/{flow}")  # with its deployment and its run
    return time.monotonic() - started


def _failed(pool: str, state: dict[str, Any], seconds: float) -> Problem:
    message = f": {state['message']}" if state.get("message") else ""
    late = "" if state["type"] in TERMINAL_STATES else f" after {seconds:g} s"
    return Problem(
        code="canary_failed",
        object=f"work pool {pool}",
        message=f"The trial run on the work pool {pool} is {state['name']}{late}{message}.",
        remedy=f"Look at the pool's workers: journalctl --unit 'prefect-worker@*'. Is {pool} paused, or at its limit?",
    )
