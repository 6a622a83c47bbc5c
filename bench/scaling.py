"""Measure the time from a burst of runs to the end of the last: one worker, four workers, and one that becomes four.

The runs sleep, and each worker has one at a time, so that the machine's cores matter little. BENCH_RUNS and
BENCH_SECONDS set their number (40) and their length (10).
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

from bench.support import show
from tests.support import burst
from tests.support.project import ROOT, host_virtualenv

NAME, PORT = "bench-scaling", "4296"
RUNS, SECONDS = int(os.environ.get("BENCH_RUNS", "40")), float(os.environ.get("BENCH_SECONDS", "10"))
SITES: dict[str, Any] = {"one": 1, "four": 4, "scaled": {"min": 1, "max": 4}}
PSQL = ["docker", "exec", "--user", "postgres", NAME, "psql", "--no-psqlrc", "--quiet", "--tuples-only", "mltrading"]


def ansible(*arguments: str) -> None:
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "BOX_NAME": NAME, "BOX_PORT": PORT}
    command = [str(ROOT / ".venv/bin/ansible-playbook"), "--inventory", "inventory/box", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout)


def on_the_host(script: str) -> None:
    subprocess.run(["docker", "exec", NAME, "sh", "-c", script], check=True, stdout=subprocess.DEVNULL)


def measure(tag: str) -> float:
    """Return the seconds of a burst."""
    on_the_host(burst.begin(f"{host_virtualenv()}/bin/python", tag, RUNS, SECONDS))
    while True:
        answer = subprocess.run([*PSQL, "--command", burst.question(tag)], check=True, capture_output=True, text=True)
        found = burst.parse(answer.stdout)
        if not found.open:
            break
        time.sleep(2)
    if (found.completed, found.starts) != (RUNS, RUNS) or found.seconds is None:
        raise RuntimeError(f"Not all runs completed at their first start: {found}")
    return found.seconds


def main() -> None:
    subprocess.run(["docker", "rm", "--force", NAME], check=True, capture_output=True)
    try:
        ansible("molecule/shared/create.yml")
        seconds = {}
        for tag, workers in SITES.items():
            ansible("site.yml", "--extra-vars", json.dumps(burst.tenants(workers)))
            on_the_host(burst.install())
            seconds[tag] = measure(tag)
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", NAME], check=True, capture_output=True)
    names = {"one": "one worker", "four": "four workers", "scaled": "workers: {min: 1, max: 4}"}
    rows = [
        (names[tag], taken, names["one"] if tag != "one" else "", seconds["one"] / taken if tag != "one" else None)
        for tag, taken in seconds.items()
    ]
    show(f"From a burst of {RUNS} runs of {SECONDS:g} s to the end of the last", rows)


if __name__ == "__main__":
    main()
