"""A burst of short runs on a site's host, which the scaling's test and its benchmark start and look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

PROGRAM = "/opt/burst/burst.py"
# Started with a tag, a number and seconds it makes so many runs, which sleep, so that the host's cores do not matter.
CODE = """
import sys
import time
from prefect import flow
from prefect.client.orchestration import get_client

@flow
def nap(seconds: float = 0):
    time.sleep(seconds)

if __name__ == "__main__":
    tag, many, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    source = nap.from_source("/opt/burst", "burst.py:nap")
    made = source.deploy("nap", work_pool_name="default", print_next_steps=False)
    with get_client(sync_client=True) as client:
        for _ in range(many):
            client.create_flow_run_from_deployment(made, parameters={"seconds": seconds}, tags=[tag])
"""
_STATE = """
SELECT json_build_object(
    'open', count(*) FILTER (WHERE state_type NOT IN ('COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED')),
    'running', count(*) FILTER (WHERE state_type = 'RUNNING'),
    'completed', count(*) FILTER (WHERE state_type = 'COMPLETED'),
    'starts', coalesce(sum((SELECT count(*) FROM prefect.flow_run_state s
                            WHERE s.flow_run_id = r.id AND s.type = 'RUNNING')), 0),
    'seconds', extract(epoch FROM max(end_time) - min(created)))
FROM prefect.flow_run r WHERE tags ? '{tag}'
"""


@dataclass(frozen=True)
class Burst:
    """What became of the runs of a tag so far; ``seconds`` are from the first one's creation to the last one's end."""

    open: int
    running: int
    completed: int
    starts: int
    seconds: float | None


def install() -> str:
    """Return the shell's command that installs the program."""
    return f"mkdir -p /opt/burst && cat >{PROGRAM} <<'PROGRAM'\n{CODE}\nPROGRAM"


def begin(python: str, tag: str, many: int, seconds: float) -> str:
    """Return the shell's command that starts the runs, in Prefect's own Python."""
    environment = "set -a; . /etc/prefect/prefect.env; export PREFECT_HOME=/tmp/client"
    return f"{environment}; {python} {PROGRAM} {tag} {many} {seconds}"


def question(tag: str) -> str:
    """Return the statement that asks what became of them."""
    return _STATE.replace("{tag}", tag)


def parse(answer: str) -> Burst:
    """Return what the statement answered."""
    found: dict[str, Any] = json.loads(answer)
    return Burst(**found)


def tenants(workers: Any) -> dict[str, Any]:
    """Return the variables of a site whose pool has these workers, with one run each: small, so that many have room."""
    deployments = "{{ lookup('ansible.builtin.file', playbook_dir ~ '/../flows/deployments.yml') | from_yaml }}"
    pool = {"name": "default", "workers": workers}
    return {
        "prefect_tenants": [{"name": "prefect", "port": 4200, "work_pools": [pool], "deployments": deployments}],
        "prefect_worker_limit": 1,
        "prefect_worker_memory_max": "1G",
        "prefect_worker_scale_seconds": 5,
        "prefect_worker_quiet_looks": 3,
    }
