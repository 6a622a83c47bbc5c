"""What this host's processes say of the runs that its workers took."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pgprefect.core.containers import RunContainer, by_run, run_containers
from pgprefect.site.configuration import Tenant
from pgprefect.site.open_runs import OpenRun, Worker, declared_workers, evidence, local_workers

NAME = f"{socket.gethostname()}-prefect-default-1"
TENANT = Tenant("prefect", "prefect")
RUN = OpenRun(
    id="1",
    state_id="2",
    name="run",
    flow="flow",
    deployment=None,
    state_type="RUNNING",
    state="Running",
    pid="40",
    worker=NAME,
    parent=None,
    parent_state=None,
    age=600,
    heartbeat_age=300,
    log_age=None,
    ended_age=None,
    worker_started_age=None,
    worker_heartbeat_age=10,
    worker_interval=30,
    waiting=0,
    pool_type="process",
    server_age=None,
    heard_age=None,
)


def worker(*pids: int, seconds: float = 3600) -> dict[str, Worker]:
    return {NAME: Worker(frozenset(pids), time.time() - seconds)}


def why(run: OpenRun, workers: dict[str, Worker], declared: tuple[str, ...] = (NAME,)) -> str | None:
    found = evidence(run, workers, declared, TENANT, 90)
    return found.reason if found else None


def test_a_process_that_lives_proves_more_than_silence() -> None:
    assert why(RUN, worker(30, 40)) is None
    assert why(RUN, {}, ()) == "its last heartbeat came 300 s ago"  # asked from another host


def test_a_run_in_a_cluster_is_left_to_its_workers() -> None:
    """Nothing but the cluster knows whether its Job lives, however long it is silent."""
    for state in ("PENDING", "RUNNING", "CANCELLING"):
        run = replace(RUN, pool_type="kubernetes", state_type=state, heartbeat_age=9000.0, pid="flows:job-1")
        assert why(run, {}, ()) is None and why(run, worker(30)) is None
    others = replace(RUN, pool_type="kubernetes", worker="others", heartbeat_age=9000.0, age=9999.0)
    assert "its last heartbeat came" in str(why(others, {}, ()))


def test_a_process_that_is_gone() -> None:
    assert why(RUN, worker(30)) == "its process 40 is not on this host any more"
    assert why(replace(RUN, heartbeat_age=20), worker(30)) is None  # its worker may be about to report it


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "CANCELLING"])
def test_a_worker_that_is_gone_or_started_again(state: str) -> None:
    run = replace(RUN, state_type=state, pid=None, heartbeat_age=1.0)
    assert why(run, {}) == f"its worker {NAME} does not run on this host"
    assert "started again 60 s ago" in str(why(run, worker(30, seconds=60)))
    assert why(run, worker(30)) is None


def test_the_workers_of_a_host_are_found_by_their_units(tmp_path: Path) -> None:
    tick, boot = 100, int(time.time()) - 1000
    (tmp_path / "stat").write_text(f"cpu 1 2\nbtime {boot}\n")
    unit = "0::/system.slice/system-prefect\\x2dworker.slice/prefect-worker@prefect-my-pool-1.service\n"
    for pid, cgroup, started in ((30, unit, 10), (40, unit, 500), (50, "0::/system.slice/ssh.service\n", 1)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "cgroup").write_text(cgroup)
        (folder / "stat").write_text(f"{pid} (a) b) S " + "0 " * 18 + f"{started * tick} 0\n")
    (tmp_path / "60").mkdir()  # it ended meanwhile
    (found,) = local_workers(str(tmp_path)).items()
    assert found[0] == f"{socket.gethostname()}-prefect-my-pool-1"
    assert found[1].pids == {30, 40} and found[1].started == pytest.approx(boot + 10, abs=1)


def test_the_workers_that_a_host_is_to_run(tmp_path: Path) -> None:
    (tmp_path / "prefect-default-1.env").touch()
    assert declared_workers(str(tmp_path)) == {NAME}
    assert declared_workers(str(tmp_path / "none")) == set()


CONTAINED = replace(RUN, pool_type="docker", pid="http+docker://localhost:abc", worker_heartbeat_age=600)
ALIVE, ENDED = RunContainer(True, "Up 2 hours"), RunContainer(False, "Exited (137) 3 minutes ago")


def why_contained(
    run: OpenRun, containers: dict[str, RunContainer] | None, workers: dict[str, Worker] | None = None
) -> str | None:
    found = evidence(run, workers or {}, (NAME,), TENANT, 90, containers)
    return found.reason if found else None


def test_a_container_that_lives_proves_more_than_silence_and_than_its_worker() -> None:
    for state in ("RUNNING", "PENDING", "CANCELLING"):
        run = replace(CONTAINED, state_type=state, worker_started_age=60)
        assert why_contained(run, {"1": ALIVE}) is None and why_contained(run, {"1": ALIVE}, worker(30)) is None
    assert why_contained(CONTAINED, {"1": ENDED}) == "its container has ended (Exited (137) 3 minutes ago)"
    assert why_contained(CONTAINED, {}) == "its container is not on this host any more"
    assert why_contained(replace(CONTAINED, heartbeat_age=20), {"1": ENDED}) is None  # to be reported, or recorded


def test_a_container_that_is_still_to_be_made() -> None:
    run = replace(CONTAINED, state_type="PENDING", pid=None)
    assert why_contained(run, {}, worker(30)) is None  # the image is being pulled
    assert "started again 60 s ago" in str(why_contained(run, {}, worker(30, seconds=60)))
    assert why_contained(run, {}) == f"its worker {NAME} does not run on this host"


def test_where_no_engine_can_be_asked_a_worker_that_is_heard_watches_its_containers() -> None:
    heard = replace(CONTAINED, worker_heartbeat_age=10, worker_started_age=60)
    assert why_contained(heard, None) is None and evidence(heard, {}, (), TENANT, 90) is None
    assert why_contained(replace(CONTAINED, heartbeat_age=600), None) == "its last heartbeat came 10 minutes ago"
    assert why_contained(CONTAINED, None) is None
    # Prefect's own worker forgets its containers when it is restarted, and its runs send fewer heartbeats.
    others = replace(heard, worker="DockerWorker 1")
    assert evidence(others, {}, (), TENANT, 90) is None
    assert "heartbeat" in str(evidence(replace(others, age=900, heartbeat_age=600), {}, (), TENANT, 90))


def test_of_several_containers_of_a_run_one_that_lives_counts() -> None:
    listed = [
        {"State": state, "Status": status, "Labels": {"io.prefect.flow-run-id": run}}
        for run, state, status in (
            ("a", "exited", "Exited (1) 1 second ago"),
            ("a", "paused", "Up 2 hours (Paused)"),
            ("b", "created", "Created"),
            ("b", "exited", "Exited (0) 1 hour ago"),
        )
    ]
    assert by_run(listed) == {"a": RunContainer(True, "Up 2 hours (Paused)"), "b": RunContainer(False, "Created")}


def test_without_an_engine_nothing_is_known(tmp_path: Path) -> None:
    assert run_containers(str(tmp_path / "none")) is None
