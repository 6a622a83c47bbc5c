"""Prefect's Docker worker, held to what the inventory declares for its host, and without the runs that it forgets.

Who may use Prefect's API may change a work pool and a deployment, and so what Prefect's worker asks the engine for: as
root of the host. Here the host decides: networks, volumes, memory and privileges are those of its own file, whatever
the API says, and an image must be named by its digest.

Prefect's worker forgets a container when it is restarted, and takes one that was removed, or whose engine was away, for
one that ended well. This one watches the containers of its name again, and asks the engine until it knows the exit
code.
"""

from __future__ import annotations

import abc
import contextlib
import io
import re
import sys
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import anyio
from flow_environment import REPOSITORY, flow_environment, not_pinned
from prefect.exceptions import ObjectNotFound
from prefect.utilities.asyncutils import run_sync_in_worker_thread
from prefect.workers.base import BaseWorker

WORKER_LABEL, RUN_LABEL = "io.prefect.worker-name", "io.prefect.flow-run-id"
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")
_LOOK_SECONDS = 5  # between two questions to an engine that is away
_GONE = -1  # the exit code of a container that was removed
_KEPT = "24h"  # so long a container that failed can be looked at


def pull_policy(image: str) -> str:
    """Return when to pull an image. Raises ValueError for one that is not pinned."""
    if _IMAGE_ID.fullmatch(image):
        return "Never"
    if REPOSITORY.fullmatch(image):
        return "IfNotPresent"
    raise not_pinned(image)


def restrict(job: Any, flow_run_id: str, worker: str, declared: Mapping[str, Any]) -> None:
    """Hold a job of Prefect's to what is declared for the host. Raises ValueError for an image that is not pinned."""
    job.image_pull_policy = pull_policy(job.image)
    for name in ("networks", "network_mode", "volumes", "mem_limit"):
        setattr(job, name, declared[name])
    job.memswap_limit = job.mem_limit  # none beyond it
    job.auto_remove, job.privileged, job.stream_output = False, False, True
    job.container_create_kwargs = {"security_opt": ["no-new-privileges"]}
    job.labels = {**job.labels, RUN_LABEL: flow_run_id, WORKER_LABEL: worker}
    # The password is not in it: the container reads a file, because `docker inspect` shows the environment.
    job.env = flow_environment(job.env, declared)


def contained(base: type[BaseWorker[Any, Any, Any]], declared: Mapping[str, Any]) -> type[BaseWorker[Any, Any, Any]]:
    """Return a Docker worker like Prefect's that keeps to what is declared."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # the journal has at once what the containers print

    class ContainedWorker(base, abc.ABC):  # type: ignore[valid-type, misc]
        async def setup(self) -> None:
            await super().setup()
            if lack := await run_sync_in_worker_thread(self._lack):
                sys.exit(f"The Docker engine of this host lacks what the pool declares: {lack}")
            for container in await run_sync_in_worker_thread(self._running):
                print(f"Worker {self.name!r} watches the container {container.name} again.", flush=True)
                self._runs_task_group.start_soon(self._watch_again, container)

        def _lack(self) -> str:
            """Return what the engine says where it has not got an image or a network that nothing pulls or makes."""
            client = self._get_client()
            try:
                if _IMAGE_ID.fullmatch(declared["image"]):
                    client.images.get(declared["image"])
                for network in declared["networks"]:
                    client.networks.get(network)
            except Exception as error:
                return str(error)
            return ""

        def _running(self) -> list[Any]:
            client = self._get_client()
            self._tidy(client)
            return list(client.containers.list(filters={"label": f"{WORKER_LABEL}={self.name}"}))

        async def run(self, flow_run: Any, configuration: Any, task_status: Any = None) -> Any:
            restrict(configuration, str(flow_run.id), self.name, declared)
            return await super().run(flow_run, configuration, task_status)

        def _watch_container_safe(self, container: Any, configuration: Any, created_event: Any) -> Any:
            # What it says is not all: the engine may have been away, or the container removed.
            with contextlib.suppress(Exception):
                super()._watch_container_safe(container, configuration, created_event)
            container.attrs["State"]["ExitCode"] = self._exit_code(container.id)
            return container

        async def _watch_again(self, container: Any) -> None:
            run_id = UUID(container.labels[RUN_LABEL])
            if self._limiter:
                with contextlib.suppress(anyio.WouldBlock, RuntimeError):
                    self._limiter.acquire_on_behalf_of_nowait(run_id)
            with self._counted():
                code = await run_sync_in_worker_thread(self._exit_code, container.id)
                if code:
                    with contextlib.suppress(ObjectNotFound):
                        flow_run = await self.client.read_flow_run(run_id)
                        await self._propose_crashed_state(flow_run, f"Its container ended with the exit code {code}.")
            self._release_limit_slot(run_id)

        def _exit_code(self, container_id: str) -> int:
            """Wait until a container has ended, also where the engine is away meanwhile, and tidy up."""
            while (code := self._wait(container_id)) is None:
                time.sleep(_LOOK_SECONDS)
            return code

        def _wait(self, container_id: str) -> int | None:
            """Return the exit code of a container when it has ended, or None where the engine goes away meanwhile."""
            try:
                client = self._get_client()
                container = client.containers.get(container_id)
                container.wait()
                container.reload()
            except Exception as error:
                return _GONE if getattr(error, "status_code", None) == 404 else None
            code = int(container.attrs["State"]["ExitCode"])
            with contextlib.suppress(Exception):
                if code == 0:
                    container.remove()
                self._tidy(client)
            return code

        def _tidy(self, client: Any) -> None:
            """Remove this worker's containers that failed a while ago."""
            client.containers.prune(filters={"label": f"{WORKER_LABEL}={self.name}", "until": _KEPT})

    return ContainedWorker
