"""The configuration of the role prefect_proxy, rendered on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.ansible import run_tasks
from tests.support.project import ROOT

ROLE = ROOT / "roles/prefect_proxy"


def write_configuration(folder: Path, tenants: dict[str, tuple[int, str]], **variables: Any) -> None:
    """Write HAProxy's files into a folder; ``tenants`` have the ports of their APIs and their addresses by name."""
    declared = [{"name": name, "port": port, "ui_url": url} for name, (port, url) in tenants.items()]
    given = {
        "ansible_managed": "Managed",
        "prefect_proxy_tenants": declared,
        "prefect_proxy_api_host": "127.0.0.1",
        "prefect_proxy_api_passwords": dict.fromkeys(tenants, "x"),
    }
    read = [{"ansible.builtin.include_vars": f"{ROLE}/{kind}/main.yml"} for kind in ("defaults", "vars")]
    files = {
        "ansible.builtin.copy": {"dest": f"{folder}/{{{{ item.key }}}}", "content": "{{ item.value }}"},
        "loop": "{{ __prefect_proxy_login_files | dict2items }}",
    }
    template = {"src": f"{ROLE}/templates/haproxy.cfg.j2", "dest": f"{folder}/haproxy.cfg"}
    render = {"ansible.builtin.template": template}
    tasks: list[dict[str, Any]] = [*read, {"ansible.builtin.set_fact": variables}, files, render]
    done = run_tasks(folder, given, *tasks)
    assert done.returncode == 0, done.stdout
