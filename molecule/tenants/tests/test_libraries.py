"""A pool with libraries of its own: its flows import them, those of other pools do not, and they go with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from testinfra.host import Host

from tests.support.hosts import changed, wait_for_health
from tests.support.project import DEFAULT
from tests.support.scenario import PREFECT, PSQL, SCENARIO, Playbook, Typed

LIBRARIES = SCENARIO / "inventory/gpu"
FOLDER = "/opt/prefect/libraries"
OWN = f"{FOLDER}/gpu/{DEFAULT}+"
WORKER = "prefect-worker@research-gpu-1"
OTHERS = (
    *("prefect-server@prefect", "prefect-server@research", "prefect-worker@prefect-default-1"),
    *("prefect-worker@research-default-1", "prefect-worker@research-default-2"),
)
# Prefect reads the default of a parameter only where the code can be loaded.
TABLE = """
import tabulate
from prefect import flow

@flow
def table(style: str = tabulate.simple_separated_format("|").__class__.__name__):
    print(tabulate.tabulate([["MSFT", 1]], tablefmt="plain"), style)
"""
pytestmark = [pytest.mark.usefixtures("libraries"), pytest.mark.thorough]
PLAYBOOKS = ("playbooks/prefect.yml", "playbooks/objects.yml", "playbooks/workers.yml")


def with_pool() -> str:
    """What the inventory has, with a pool that has libraries of its own, and a deployment on each pool."""
    tenants: list[dict[str, Any]] = yaml.safe_load((SCENARIO / "inventory/group_vars/all.yml").read_text())[
        "prefect_tenants"
    ]
    tenants[1]["work_pools"].append({"name": "gpu", "libraries": str(LIBRARIES)})
    table = {"flow": "table", "entrypoint": "table.py:table"}
    tenants[1]["deployments"] = [{**table, "name": pool, "work_pool": pool} for pool in ("default", "gpu")]
    del tenants[0]["deployments"]  # whose code is not in that folder
    return json.dumps({"prefect_tenants": tenants, "prefect_objects_flows_directory": "/opt/tables"})


@pytest.fixture(scope="module")
def libraries(host: Host) -> Iterator[None]:
    """A list of libraries beside the inventory, and a flow that needs them."""
    LIBRARIES.with_suffix(".in").write_text("tabulate\n")
    host.check_output("mkdir -p /opt/tables && printf %%s %s >/opt/tables/table.py", TABLE)
    yield
    for file in LIBRARIES.parent.glob("gpu*"):
        file.unlink()
    for kind, name in (("deployment", "table/gpu"), ("deployment", "table/default"), ("work-pool", "gpu")):
        host.check_output("PREFECT_TENANT=research prefect --no-prompt %s delete %s", kind, name)


def processes(host: Host) -> list[str]:
    return [str(host.check_output("systemctl show --property MainPID --value %s", unit)) for unit in OTHERS]


def test_its_flows_have_them_and_others_do_not(host: Host, playbook: Playbook, typed: Typed) -> None:
    refused = playbook(*PLAYBOOKS, "--extra-vars", with_pool())
    assert refused.returncode != 0 and f"there is no {LIBRARIES}-{DEFAULT}.txt" in " ".join(refused.stdout.split())
    typed("operate.md", "Libraries of a pool's own")
    others = processes(host)
    made = playbook(*PLAYBOOKS, "--extra-vars", with_pool())
    assert made.returncode == 0, made.stdout
    again = playbook(*PLAYBOOKS, "--extra-vars", with_pool())
    assert again.returncode == 0 and set(changed(again.stdout)) == {0}, again.stdout
    # No other worker restarts.
    assert processes(host) == others
    command = "tr '\\0' ' ' </proc/$(systemctl show --property MainPID --value %s)/cmdline"
    assert host.check_output(command, WORKER).startswith(OWN)
    assert host.check_output(command, OTHERS[2]).startswith(f"{PREFECT}/bin/python ")
    wait_for_health(host)

    done = host.check_output("PREFECT_TENANT=research prefect deployment run table/gpu --watch")
    assert "Flow run finished successfully" in done
    crashed = host.run("PREFECT_TENANT=research prefect deployment run table/default --watch")
    assert "Flow run finished in state 'Crashed'" in crashed.stdout + crashed.stderr
    missing = """SELECT count(*) > 0 FROM "Research-2".log WHERE message LIKE '%No module named ''tabulate''%'"""
    assert host.check_output(PSQL, missing) == "t"
    # The schema of the parameters has what only the loaded code says.
    schema_default = (
        "SELECT parameter_openapi_schema->'properties'->'style'->>'default' FROM %s.deployment WHERE name = '%s'"
    )
    assert host.check_output(PSQL, schema_default % ('"Research-2"', "gpu")) == "TableFormat"
    assert host.check_output(PSQL, schema_default % ('"Research-2"', "default")) == ""


def test_only_its_workers_restart_with_another_lock_and_are_removed_with_it(
    host: Host, playbook: Playbook, typed: Typed
) -> None:
    others, own = processes(host), host.check_output("systemctl show --property MainPID --value %s", WORKER)
    LIBRARIES.with_suffix(".in").write_text("tabulate\ntoolz\n")
    typed("operate.md", "Libraries of a pool's own")
    playbooks = ("playbooks/prefect.yml", "playbooks/workers.yml", "playbooks/unused_virtualenvs.yml")
    done = playbook(*playbooks, "--extra-vars", with_pool())
    assert done.returncode == 0, done.stdout
    # What it ran from before is gone.
    (changed_libraries,) = host.check_output(f"ls -d {FOLDER}/gpu/*").splitlines()
    host.check_output(f"{changed_libraries}/bin/python -I -c 'import tabulate, toolz, prefect, pgprefect'")
    assert host.check_output("systemctl show --property MainPID --value %s", WORKER) != own
    assert processes(host) == others

    done = playbook("playbooks/prefect.yml", "playbooks/workers.yml")
    assert done.returncode == 0, done.stdout
    assert not host.service(WORKER).is_running and processes(host) == others
    assert host.check_output("ls %s", FOLDER) == ""
    wait_for_health(host)
