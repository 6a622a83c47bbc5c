"""Work pools with libraries of their own: what the inventory may name, and what workers and deployments get of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from filter_plugins.libraries import locked_in, pool_virtualenvs, virtualenvs_by_pool, with_virtualenvs
from filter_plugins.tenants import prefect_tenants, prefect_workers
from plugin_utils.inventory_checks.libraries import check_libraries
from tests.support.inventories import run

HASH = f"--hash=sha256:{'0123456789abcdef' * 4}"
PREFECT = f"Prefect==3.9.1 {HASH}\nnumpy==1.0 ; python_version < '3.12' \\\n    {HASH}\nnumpy==2.0 \\\n    {HASH}\n"
LOCK = f"""--index-url https://packages.example.com
# ours
torch[gpu]==2.1 \\
    {HASH} \\
    {HASH}
    # via
    #   -r x
"""
PATH = "prefect_tenants[0].work_pools[0].libraries"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prefect-3.9.1.txt").write_text(PREFECT)
    return tmp_path


def faults(folder: Path, *pools: dict[str, Any]) -> list[str]:
    return list(check_libraries([{"name": "a", "work_pools": pools}, {"name": "b"}], "3.9.1", folder))


LOCKS = [
    (LOCK, ""),
    (LOCK + f"numpy==2.0 {HASH}\n", ""),
    (LOCK + f"numpy==1.0 {HASH} \\\n  {HASH}", ""),
    ("torch==2.1\n", "line 1: 'torch==2.1' has no hash: make it by"),
    (LOCK + "idna==3.1 \\\n    # via torch\n", "line 8: 'idna==3.1' has no hash: make it by"),
    (LOCK + f"idna==3.1 {HASH[:-1]}\n", "line 8: 'idna==3.1 --hash=sha256:01234567"),
    ("torch\nnumpy>=2\n", "line 1: 'torch' is no package with one version, and 1 more lines are no better: make"),
    (f"torch==2.* {HASH}\n", "line 1: 'torch==2.* --hash=sha256:0123456789"),
    (f"torch @ https://example.com/torch.whl {HASH}\n", "is no package with one version"),
    ("-r others.txt\n", "line 1: '-r others.txt' is no package with one version"),
    ("-e .\n", "line 1: '-e .' is no package with one version"),
    ("# nothing\n", "which locks no package"),
    (LOCK + f"NumPy==2.1 {HASH}\n", "has numpy 2.1, but Prefect 3.9.1 runs with 1.0, 2.0: make it by"),
    ("\0\x80", "line 1"),
]


@pytest.mark.parametrize(("text", "fault"), LOCKS)
def test_a_lock(folder: Path, text: str, fault: str) -> None:
    lock = folder / "gpu-3.9.1.txt"
    lock.write_text(text)
    found = faults(folder, {"name": "gpu", "libraries": f"{folder}/gpu"})
    assert (fault in found[0] and len(found) == 1) if fault else found == []
    for one in found:
        assert one.startswith(f"{PATH}: {lock}") and f"`requirements/lock {folder}/gpu 3.9.1`" in one


def test_what_is_refused_before_its_lock_is_read(folder: Path) -> None:
    libraries = f"{folder}/gpu"
    (missing,) = faults(folder, {"name": "gpu", "libraries": libraries})
    assert missing.startswith(f"{PATH} is '{libraries}', but there is no {libraries}-3.9.1.txt")
    assert missing.endswith(f"import in {libraries}.in, and run `requirements/lock {libraries} 3.9.1`.")
    for kind in ("docker", "kubernetes"):
        (fault,) = faults(folder, {"name": "gpu", "type": kind, "libraries": libraries})
        assert fault == f"{PATH}: the libraries of a pool of the type {kind} are in its image: remove libraries."
    (folder / "gpu-3.9.1.txt").write_text(LOCK)
    (folder / "x").mkdir()
    pools = [{"name": name, "libraries": path} for name, path in (("a", libraries), ("b", libraries))]
    assert faults(folder, *pools) == []
    (other,) = faults(folder, *pools, {"name": "c", "libraries": f"{folder}/x/gpu"})
    assert other.startswith("prefect_tenants[0].work_pools[2].libraries is") and "give one of the two another" in other


def test_a_flow_imports_what_its_pool_has(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/plot.py").write_text("import torch\nfrom prefect import flow\n@flow\ndef plot(): ...\n")
    (tmp_path / "gpu-3.9.1.txt").write_text(f"torch==2.1 {HASH}\n")
    (tmp_path / "plain-3.9.1.txt").write_text(f"idna==3.1 {HASH}\n")
    pools = [{"name": "default"}, *({"name": name, "libraries": f"{tmp_path}/{name}"} for name in ("gpu", "plain"))]
    plot = {"flow": "plot", "entrypoint": "plot.py:plot"}
    deployments = [{**plot, "name": pool, "work_pool": pool} for pool in ("gpu", "default", "plain")]
    tenants = [{"name": "a", "work_pools": pools, "deployments": deployments}]
    site = {"hosts": {"one": {"prefect_flows": f"{tmp_path}/flows", "prefect_tenants": tenants}}}
    status, said = run(tmp_path, dict.fromkeys(("postgresql", "prefect_server", "prefect_worker"), site))
    assert status != 0 and "The inventory has 3 mistakes; nothing was changed." in said, said
    for number, libraries in ((1, "requirements/flows"), (2, f"{tmp_path}/plain")):
        assert f"deployments[{number}].entrypoint: plot.py:plot: plot.py imports torch, which" in said
        assert f"add its package to {libraries}.in and run requirements/lock" in said
    # Prefect has another one.
    assert "plain-3.9.1.txt has idna 3.1, but Prefect 3.9.1 runs with" in said


def test_workers_have_the_virtualenv_of_their_libraries(folder: Path) -> None:
    pools = [{"name": "default"}, *({"name": name, "libraries": f"{folder}/gpu"} for name in ("fast", "slow"))]
    (tenant,) = prefect_tenants([{"name": "a", "work_pools": pools}])
    workers = prefect_workers([tenant])
    locks = [f"{folder}/prefect-3.9.1.txt", f"{folder}/gpu-3.9.1.txt"]

    def made() -> dict[str, Any]:
        (virtualenv,) = pool_virtualenvs(workers, "/opt/libraries", "3.9.1", locks[0])
        return virtualenv

    without_lock = made()["path"]
    (folder / "gpu-3.9.1.txt").write_text(LOCK)
    first = made()
    assert first["requirements"] == locks and re.fullmatch(r"/opt/libraries/gpu/3\.9\.1\+[0-9a-f]{8}", first["path"])
    assert first == made() and first["path"] != without_lock
    assert locked_in([first], "/l") == [{**first, "requirements": ["/l/prefect-3.9.1.txt", "/l/gpu-3.9.1.txt"]}]

    plain, fast, slow = completed = with_virtualenvs(workers, [first])
    assert plain == workers[0] and "libraries" not in fast
    assert fast["virtualenv"] == slow["virtualenv"] == first["path"]
    assert virtualenvs_by_pool(completed) == {"a": dict.fromkeys(("fast", "slow"), first["path"])}
    for lock in (folder / "prefect-3.9.1.txt", folder / "gpu-3.9.1.txt"):
        lock.write_text(lock.read_text() + "# changed\n")
        assert made()["path"] != first["path"]
        first = made()
    assert with_virtualenvs(workers[:1], pool_virtualenvs(workers[:1], "/o", "1", "/p")) == workers[:1]
