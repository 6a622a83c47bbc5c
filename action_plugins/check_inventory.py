"""Refuse an inventory with mistakes: on the controller, all of them at once, before any host is touched."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import filter_loader
from ansible.template import Templar
from ansible.utils.vars import load_extra_vars
from ansible.vars.plugins import get_vars_from_inventory_sources

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "module_utils"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

try:
    from plugin_utils.inventory_checks import forms
    from plugin_utils.inventory_checks.code import Flows, locked_modules
    from plugin_utils.inventory_checks.docker import check_docker, check_reach
    from plugin_utils.inventory_checks.git import check_sources
    from plugin_utils.inventory_checks.groups import GROUPS, check_addresses, check_groups
    from plugin_utils.inventory_checks.kubernetes import check_kubernetes, check_way_of_pods
    from plugin_utils.inventory_checks.libraries import check_libraries
    from plugin_utils.inventory_checks.managed import check_managed
    from plugin_utils.inventory_checks.members import check_members
    from plugin_utils.inventory_checks.objects import check_blocks
    from plugin_utils.inventory_checks.proxy import check_api_urls, check_encryption, check_proxy
    from plugin_utils.inventory_checks.secrets import check_secrets
    from plugin_utils.inventory_checks.several_servers import check_connections, check_several_servers
    from plugin_utils.inventory_checks.specification import read
    from plugin_utils.inventory_checks.table import REQUIREMENTS
    from plugin_utils.inventory_checks.tenants import (
        check_code,
        check_environments,
        check_placement,
        check_ports,
        check_tenants,
    )
    from plugin_utils.inventory_checks.values import check_value
    from plugin_utils.inventory_checks.variables import Definition, check_names
except ModuleNotFoundError as error:
    message = f"{error}: this Python lacks what the check of the inventory needs. Renew .venv by box/controller."
    raise AnsibleError(message) from error

CONTAINERS = ("community.docker.docker", "docker")
# The database's side and the servers' side of one schema.
EXTENSIONS = ("prefect_database_extensions_schema", "prefect_server_extensions_schema")
# What a value has, or the message about it, that cannot be worked out before a host was asked.
NEEDS_FACTS = re.compile("ansible_(facts|local|default_|processor|mem|distribution|hostname|fqdn|os_|env)")


class ActionModule(ActionBase):
    """The action, as Ansible loads it."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("explicit", "later", "one_postgresql", "other_variables", "own_postgresql"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a failure that lists every mistake, each with its place and what to do.

        With ``later``, the names of variables that need this host's facts, these alone are checked. Without it the
        result has ``later``, the names that could not be checked yet.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        self._specification = read(ROOT)
        later: list[str] = []
        if "later" in self._task.args:
            mistakes = list(self._check_later(self._task.args["later"], variables))
        else:
            definitions = list(self._definitions(variables))
            definitions += self._play_variables(definitions, variables)
            mistakes = [
                *check_groups(variables["groups"], any(found.name == "database_host" for found in definitions)),
                *check_addresses(definitions, variables["groups"]),
                *check_names(definitions, self._specification, self._task.args["other_variables"]),
                *self._check_values(definitions, variables, later),
                *self._check_way_to_apis(variables),
                *self._check_managed(variables),
                *self._check_members(variables, definitions),
            ]
            if self._task.args["explicit"]:
                mistakes += check_explicit(sys.argv[1:], variables)
        if mistakes:
            count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
            listed = "\n".join(f"- {mistake}" for mistake in dict.fromkeys(mistakes))
            result |= {"failed": True, "msg": f"The inventory has {count}; nothing was changed.\n{listed}"}
        return result | {"later": sorted(set(later))}

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

    def _play_variables(self, definitions: list[Definition], variables: Mapping[str, Any]) -> Iterator[Definition]:
        """Yield what a playbook of the user's gives to ours, as `vars` of import_playbook.

        A play that begins with roles has their defaults, too, which nobody gave.
        """
        known = {found.name for found in definitions}
        defaults = self._specification.defaults
        for name in self._specification.free:
            if name in variables and name not in known and variables[name] != defaults.get(name):
                yield Definition(name, variables[name], "the playbook", variables["inventory_hostname"])

    def _check_values(
        self, definitions: list[Definition], variables: Mapping[str, Any], later: list[str]
    ) -> Iterator[str]:
        hosts: dict[str, dict[str, Any]] = {}
        for found in definitions:
            if not found.host or found.name not in self._specification.free:
                continue
            if found.host not in hosts:
                hosts[found.host] = {**variables, **variables["hostvars"].raw_get(found.host)}
            host = hosts[found.host]
            try:
                value = self._value(found.value, host)
            except AnsibleError as error:
                if NEEDS_FACTS.search(f"{found.value} {error}"):
                    later.append(found.name)
                else:
                    yield f"{found.name} ({found.where}): it cannot be worked out: {error}"
                continue
            counts = host.get(found.name) == found.value  # no other place sets it for this host
            yield from self._check_value(found.name, value, host, counts)

    def _check_managed(self, variables: Mapping[str, Any]) -> Iterator[str]:
        host = self._first_server(variables)
        own = bool(self._task.args.get("own_postgresql"))
        yield from check_managed(variables["groups"], lambda name: self._get(name, None, host), own)

    def _check_members(self, variables: Mapping[str, Any], definitions: Sequence[Definition]) -> Iterator[str]:
        host = self._first_server(variables)
        own = any(
            found.name == "postgresql_tls_certificate"
            or (found.name == "site_tls_files" and isinstance(found.value, Mapping) and "postgresql" in found.value)
            for found in definitions
        )
        one = bool(self._task.args.get("one_postgresql"))
        yield from check_members(variables["groups"], lambda name: self._get(name, None, host), one, own)

    def _check_later(self, names: list[str], host: dict[str, Any]) -> Iterator[str]:
        for name in names:
            try:
                value = self._value(host[name], host) if name in host else None
            except AnsibleError as error:
                yield f"{name}: it cannot be worked out on {host['inventory_hostname']}: {error}"
                continue
            if name in host:
                yield from self._check_value(name, value, host)

    def _check_value(self, name: str, value: Any, host: dict[str, Any], counts: bool = True) -> Iterator[str]:
        mistakes = list(check_value(name, value, self._specification.options[name]))
        if name == "prefect_tenants" and not mistakes:
            value, mistakes = self._with_deployments(value)
        alone = bool(mistakes) or not counts
        if name == "prefect_tenants" and counts and (flows_with := self._flows(host)):
            mistakes += check_code(value, flows_with)
        if alone:
            pass  # what it must fit together with may belong to another value
        elif name == "prefect_tenants":
            mistakes += self._check_tenants(value, host)
        elif name == "pgbackrest_repository" and value.get("type", "path") == "path" and "path" in value:
            mistakes += forms.OWN_DIRECTORY.faults(f"{name}.path", value["path"])
        elif name == "postgresql_tls_certificate":
            if self._get("site_tls", "none", host) != "none" and not self._get("database_ca_file", "", host):
                mistakes.append(
                    f"{name} is {value!r}, and site_tls is on, but database_ca_file does not name the authority of "
                    f"that certificate: set it, or remove {name} and postgresql_tls_key to have one installed."
                )
        elif name == "prefect_secrets":
            # The backup's login is a peer's where PostgreSQL is the site's own.
            others = [] if host["groups"].get("postgresql") else ["prefect_backup"]
            login = self._get("app_login", "mltrading_app", host)
            mistakes += check_secrets(value, self._tenants(host), [login, *others])
        elif name in EXTENSIONS:
            (other,) = set(EXTENSIONS) - {name}
            if (there := self._get(other, "extensions", host)) != value:
                mistakes.append(f"{name} is {value!r}, but {other} is {there!r}: set both to the same schema.")
        yield from mistakes

    def _with_deployments(self, tenants: Any) -> tuple[Any, list[str]]:
        """Return the tenants with the deployments of their files, and what is wrong with these."""
        mistakes = []
        spec = self._specification.options["prefect_tenants"]["options"]["deployments"]
        read = filter_loader.get("deployments_from").j2_function
        for number, tenant in enumerate(tenants):
            path = f"prefect_tenants[{number}].deployments"
            try:
                (whole,) = read([tenant])
            except AnsibleError as error:
                mistakes.append(f"{path}_from: {error}: correct the file, or declare it in deployments.")
                continue
            if "deployments_from" in tenant:
                own = len(tenant.get("deployments", ()))
                faults = check_value(path, whole["deployments"], spec, "prefect_tenants[].deployments")
                mistakes += [f"{fault} (those from {own} on are of deployments_from)" for fault in faults]
        return (tenants if mistakes else read(tenants)), mistakes

    def _check_tenants(self, tenants: Any, host: dict[str, Any]) -> Iterator[str]:
        resolved = filter_loader.get("prefect_tenants").j2_function(tenants)
        yield from check_environments(tenants)
        yield from check_sources(tenants)
        yield from check_docker(tenants)
        yield from check_blocks(tenants)
        yield from check_libraries(tenants, self._release(host), REQUIREMENTS)
        yield from check_kubernetes(tenants)
        yield from check_tenants(resolved)
        yield from check_placement(resolved, host["groups"])
        workers_of = filter_loader.get("prefect_workers").j2_function
        hosts = host["groups"].get("prefect_worker", ())
        health_ports = {one["health_port"] for name in hosts for one in workers_of(resolved, name, host["groups"])}
        port = int(self._get("database_port", 5432, host))
        yield from check_ports(resolved, port, health_ports, host["groups"])

    def _check_way_to_apis(self, variables: Mapping[str, Any]) -> Iterator[str]:
        """Yield what stands between other hosts and the APIs that should not, as the first server's host sees it."""
        groups = variables["groups"]
        if not groups.get("prefect_server"):
            return
        host = self._first_server(variables)
        declared = self._get("prefect_tenants", [], host) if "prefect_tenants" in host else [{"name": "prefect"}]
        yield from check_encryption(declared, groups, boolean(self._get("prefect_allow_plain_http", False, host)))
        yield from check_api_urls(declared, groups)
        proxies = groups.get("prefect_proxy", ())
        bound = filter_loader.get("local_address").j2_function(self._get("prefect_bind_address", "127.0.0.1", host))
        address = self._get("prefect_ui_url", "", host)
        resolved = filter_loader.get("prefect_tenants").j2_function(declared, bound, address, proxy=(*proxies, "")[0])
        certificate = self._get("prefect_proxy_certificate", "", host) or host.get("site_tls", "none") != "none"
        ports = {int(self._get("prefect_proxy_http_port", 80, host)): "the redirection of HTTP"}
        if set(proxies) & set(groups.get("postgresql", ())):
            ports[int(self._get("database_port", 5432, host))] = "PostgreSQL"
        yield from check_proxy(resolved, groups, bool(certificate), ports)
        processes = int(self._get("prefect_server_processes", 1, host))
        yield from check_several_servers(
            groups,
            processes,
            authority=self._get("site_tls", "none", host) == "private_ca",
            named=bool(address) or all("ui_url" in tenant for tenant in declared),
        )
        limits = self._get("prefect_database_connection_limits", {}, host)
        pool = int(self._get("prefect_server_pool_size", 20, host))
        services = groups.get("prefect_services") or groups["prefect_server"][:1] if groups.get("redis") else ()
        everywhere = processes * len(groups["prefect_server"]) + len(services)
        yield from check_connections(resolved, limits, everywhere, pool)
        yield from check_reach(resolved, groups)
        yield from check_way_of_pods(resolved)

    def _first_server(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables as the first server's host has them, if there is one."""
        servers = variables["groups"].get("prefect_server") or ()
        return {**variables, **(variables["hostvars"].raw_get(servers[0]) if servers else {})}

    def _release(self, host: dict[str, Any]) -> str:
        default = self._specification.options["prefect_version"]["default"]
        return str(self._get("prefect_version", default, host))

    def _flows(self, host: dict[str, Any]) -> Callable[[str], Flows] | None:
        """Return the controller's folder of flows, by the libraries of a pool; an empty name stands for those of all.

        None where the site brings its flows to the hosts by itself.
        """
        given = self._get("prefect_flows", None, host) if "prefect_flows" in host else ROOT / "flows"
        if given is None or "prefect_objects_flows_directory" in host:
            return None
        folder, release = Path(str(given)), self._release(host)
        others = set(self._get("prefect_flows_modules", (), host))

        @cache
        def flows_with(libraries: str) -> Flows:
            own = libraries or str(REQUIREMENTS / "flows")
            locks = [Path(f"{lock}-{release}.txt") for lock in (REQUIREMENTS / "prefect", own)]
            return Flows(folder, locked_modules(locks) | others, libraries or "requirements/flows")

        return flows_with

    def _tenants(self, host: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the tenants of a host with their defaults, and none where they have mistakes."""
        declared = self._get("prefect_tenants", [], host) if "prefect_tenants" in host else [{"name": "prefect"}]
        tenants: list[dict[str, Any]] = filter_loader.get("prefect_tenants").j2_function(declared)
        return tenants

    def _get(self, name: str, default: Any, host: dict[str, Any]) -> Any:
        """Return a variable that the user may have set, or its default; the default, too, where it has a mistake."""
        try:
            value = self._value(host[name], host) if name in host else default
        except AnsibleError:
            return default
        return default if list(check_value(name, value, self._specification.options[name])) else value

    def _value(self, value: Any, host: dict[str, Any]) -> Any:
        return Templar(loader=self._loader, variables=host).template(value)


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
