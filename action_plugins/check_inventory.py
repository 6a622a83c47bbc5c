"""Refuse an inventory with mistakes: on the controller, all of them at once, before any host is touched."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import filter_loader
from ansible.template import Templar
from ansible.utils.vars import load_extra_vars
from ansible.vars.plugins import get_vars_from_inventory_sources

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "module_utils"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from pgprefect.health.thresholds import Thresholds  # noqa: E402
from pgprefect.runs.retention import Policy  # noqa: E402

from plugin_utils.inventory_checks.groups import GROUPS, check_groups  # noqa: E402
from plugin_utils.inventory_checks.specification import Specification, read  # noqa: E402
from plugin_utils.inventory_checks.tenants import check_tenants  # noqa: E402
from plugin_utils.inventory_checks.values import check_dataclass, check_keys  # noqa: E402
from plugin_utils.inventory_checks.variables import Definition, check_names  # noqa: E402

# Variables whose keys are the fields of a class that hosts use too.
CLASSES: dict[str, Any] = {"prefect_monitoring_thresholds": Thresholds, "prefect_retention_policy": Policy}
CONTAINERS = ("community.docker.docker", "docker")


class ActionModule(ActionBase):
    """The action, as Ansible loads it."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("explicit", "other_variables"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a failure that lists every mistake, each with its place and what to do."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        specification = read(ROOT)
        definitions = list(self._definitions(variables))
        mistakes = [
            *check_groups(variables["groups"], any(found.name == "database_host" for found in definitions)),
            *check_names(definitions, specification, self._task.args["other_variables"]),
            *self._check_values(definitions, specification, variables),
        ]
        if self._task.args["explicit"]:
            mistakes += check_explicit(sys.argv[1:], variables)
        if mistakes:
            count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
            listed = "\n".join(f"- {mistake}" for mistake in dict.fromkeys(mistakes))
            result |= {"failed": True, "msg": f"The inventory has {count}; nothing was changed.\n{listed}"}
        return result

    def _definitions(self, variables: Mapping[str, Any]) -> Iterator[Definition]:
        """Yield what the user set: in the inventory's files, its group_vars and host_vars, and on the command line."""
        # Reading the sources again would run the scripts of dynamic inventories again.
        inventory = variables["hostvars"]._inventory
        sources = variables.get("ansible_inventory_sources") or []
        kinds = (("group", inventory.groups.values()), ("host", inventory.hosts.values()))
        for kind, entities in kinds:
            for entity in entities:
                found = get_vars_from_inventory_sources(self._loader, sources, [entity], "all")
                host = entity.name if kind == "host" else next((str(one) for one in entity.get_hosts()), "")
                for name, value in {**entity.vars, **found}.items():
                    yield Definition(name, value, f"{kind} {entity.name}", host)
        some_host = next(iter(inventory.hosts), "")
        for name, value in load_extra_vars(self._loader).items():
            yield Definition(name, value, "--extra-vars", some_host)

    def _check_values(
        self, definitions: list[Definition], specification: Specification, variables: Mapping[str, Any]
    ) -> Iterator[str]:
        for found in definitions:
            spec = specification.options.get(found.name, {})
            checked = ("options" in spec or found.name in CLASSES) and found.name not in specification.wiring
            if not found.host or not checked:
                continue
            host = {**variables, **variables["hostvars"].raw_get(found.host)}
            try:
                value = Templar(loader=self._loader, variables=host).template(found.value)
            except AnsibleError:
                continue  # It needs a host's facts, or fails where it is used, with Ansible's own message.
            mistakes = list(check_keys(found.name, value, spec))
            if found.name in CLASSES:
                kind = CLASSES[found.name]
                mistakes += check_dataclass(found.name, value, kind, kind.from_arguments)
            elif found.name == "prefect_tenants" and not mistakes:
                mistakes += self._check_tenants(value, host)
            yield from mistakes

    def _check_tenants(self, tenants: Any, host: dict[str, Any]) -> Iterator[str]:
        try:
            resolved = filter_loader.get("prefect_tenants").j2_function(tenants)
        except AnsibleError as error:
            yield str(error)
            return
        yield from check_tenants(resolved, self._flows(host))

    def _flows(self, host: dict[str, Any]) -> Path | None:
        """Return the controller's folder of flows; None where the site brings its flows to the hosts by itself."""
        if "prefect_objects_flows_directory" in host:
            return None
        flows = host.get("prefect_flows", str(ROOT / "flows"))
        return Path(Templar(loader=self._loader, variables=host).template(flows))


def check_explicit(arguments: list[str], variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield a mistake where no inventory was named by -i, and a host is not a container of this machine."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-i", "--inventory", "--inventory-file", action="append")
    if parser.parse_known_args(arguments)[0].inventory:
        return
    hosts = {host for group in GROUPS for host in variables["groups"].get(group, ())}
    real = sorted(host for host in hosts if variables["hostvars"][host].get("ansible_connection") not in CONTAINERS)
    if real:
        sources = ", ".join(map(str, variables.get("ansible_inventory_sources") or ()))
        yield (
            f"This playbook deletes or replaces data on {', '.join(real)}, and no inventory was named: "
            f"{sources} is only the default. Name it: -i {sources}"
        )
