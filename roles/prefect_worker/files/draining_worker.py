"""A Prefect worker that drains: at SIGTERM it takes no new run at once, and ends when its runs have ended.

At SIGUSR1, by which it is told that it is not needed any more, it does the same, and ends with a status after which its
unit does not start it again: its runs have all the time that they take. A file in its RuntimeDirectory= says so.

Prefect 3's own worker takes SIGTERM as an interrupt: it ends within seconds, its runs with it. Its other means do not
drain either. A paused work pool stops all of its workers; a paused queue of one worker would, but a worker that polls
a queue of its own gets nothing of the others; a worker stopped by SIGSTOP can neither report nor renew anything for
its runs. So this is Prefect's worker of the pool's type, with three methods that look at a flag before they take a
run. What is already being taken when the signal comes goes on and is waited for. Workers of Docker and of Kubernetes
pools are more than that: see docker_worker.py and kubernetes_worker.py. PGPREFECT_CONTAINERS, in the environment, says
what their containers and pods get.

usage: draining_worker.py POOL NAME LIMIT
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.workers.base import BaseWorker

_LOOK_SECONDS = 0.2
_RETIRED = 100  # the exit status, which the unit knows
_CONTAINED = {"docker": "docker_worker", "kubernetes": "kubernetes_worker"}  # the module of a pool's type


def draining(base: type[BaseWorker[Any, Any, Any]]) -> type[BaseWorker[Any, Any, Any]]:
    """Return a worker like the given one that can drain."""

    # As an abstract class it takes no place in Prefect's list of types.
    class DrainingWorker(base, abc.ABC):  # type: ignore[valid-type, misc]
        is_draining = False
        status = 0
        runs = 0  # that are being submitted or go on

        def drain(self) -> None:
            self.is_draining = True
            print(f"Worker {self.name!r} drains: it takes no new runs and has {self.runs} going on.", flush=True)

        def retire(self) -> None:
            self.status = _RETIRED
            if folder := os.environ.get("RUNTIME_DIRECTORY"):
                Path(folder, "draining").touch()
            self.drain()

        async def get_and_submit_flow_runs(self) -> Any:
            if self.is_draining:
                self._last_polled_time = datetime.now(timezone.utc)  # so that it stays healthy
                return []
            return await super().get_and_submit_flow_runs()

        async def _submit_scheduled_flow_runs(self, flow_run_response: Any) -> Any:
            return [] if self.is_draining else await super()._submit_scheduled_flow_runs(flow_run_response)

        async def _propose_pending_state(self, flow_run: Any) -> bool:
            return not self.is_draining and await super()._propose_pending_state(flow_run)

        async def _submit_run(self, flow_run: Any) -> None:
            with self._counted():
                await super()._submit_run(flow_run)

        # Until what it says of the run's end is said.
        async def _submit_run_and_capture_errors(self, flow_run: Any, task_status: Any = None) -> Any:
            with self._counted():
                return await super()._submit_run_and_capture_errors(flow_run, task_status=task_status)

        @contextlib.contextmanager
        def _counted(self) -> Iterator[None]:
            self.runs += 1
            try:
                yield
            finally:
                self.runs -= 1

    return DrainingWorker


async def main(pool: str, name: str, limit: int) -> int:
    """Run a worker of the pool until it is told to end, and return its exit status."""
    async with get_client() as client:
        kind = (await client.read_work_pool(pool)).type
    base = BaseWorker.get_worker_class_from_type(kind)
    if base is None:
        sys.exit(f"The work pool {pool} is of the type {kind}, for which no worker is installed.")
    if "PGPREFECT_CONTAINERS" in os.environ:
        declared = json.loads(os.environ["PGPREFECT_CONTAINERS"])
        # Who may use the API can make the pool anew: of another type its runs would have the rights of this worker.
        if declared["type"] != kind:
            sys.exit(f"The work pool {pool} is of the type {kind}, and this host declares {declared['type']}.")
        sys.path.append(str(Path(__file__).parent))
        base = importlib.import_module(_CONTAINED[kind]).contained(base, declared)
    worker: Any = draining(base)(work_pool_name=pool, name=name, limit=limit, create_pool_if_not_found=False)
    work = asyncio.ensure_future(worker.start(with_healthcheck=True))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, worker.retire)
    while not work.done() and not (worker.is_draining and not worker.runs):
        await asyncio.wait([work], timeout=_LOOK_SECONDS)
    if not work.done():
        work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    return int(worker.status)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
