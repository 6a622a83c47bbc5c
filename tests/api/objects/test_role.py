"""The role prefect_objects against a real server: all kinds in one run, in the order in which they need each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from tests.support.hosts import changed
from tests.support.project import ROOT, VIRTUALENV

PLAYBOOK = ROOT / ".venv/bin/ansible-playbook"
SECRET = "s3cret-hook"
Play = Callable[..., str]
TENANT = """
- name: {name}
  variables:
    - name: symbols_{name}
      value: [MSFT, 1, true, null]
  concurrency_limits:
    - name: quotes {name}
      limit: 5
    - name: tag:{name}
      limit: 2
  blocks:
    - name: alerts-{name}
      type: slack-webhook
      data:
        notify_type: info
      secrets:
        url: {secret}
  work_pools:
    - name: pool {name}
      queues:
        - name: urgent
          priority: 1
  deployments:
    - name: {name}
      flow: check-risk-limits
      entrypoint: check_risk_limits.py:check_risk_limits
      work_pool: pool {name}
  automations:
    - name: report {name}
      trigger:
        posture: Reactive
        expect: [prefect.flow-run.Failed]
      actions:
        - type: send-notification
          block: slack-webhook/alerts-{name}
          subject: Fehler
          body: !unsafe "{{{{ flow_run.name }}}} failed"
        - type: pause-work-queue
          work_queue: pool {name}/urgent
    - name: run {name}
      trigger:
        posture: Reactive
        expect: [order.created]
      actions:
        - type: run-deployment
          deployment: check-risk-limits/{name}
          job_variables: {{}}
        - type: pause-automation
          automation: report {name}
"""
PLAY = """
- hosts: here
  gather_facts: false
  vars:
    tenants: {tenants}
  tasks:
    - ansible.builtin.include_role:
        name: prefect_objects
        tasks_from: {tasks}
      vars:
        views: "{{{{ (tenants | prefect_tenants | tenant_views).objects }}}}"
        prefect_objects_tenants: "{{{{ views | map('combine', {{'api_url': url}}) }}}}"
        prefect_objects_blocks: "{{{{ tenants | prefect_blocks }}}}"
        prefect_objects_api_passwords: "{{{{ {{tenants[0].name: password}} }}}}"
        prefect_objects_virtualenv: {virtualenv}
        prefect_objects_flows_directory: {flows}
"""


@pytest.fixture
def name() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def play(tmp_path: Path, name: str, api_arguments: dict[str, str]) -> Play:
    """Run tasks of the role with a tenant, and return all that Ansible says."""
    program(tmp_path, name, api_arguments)

    def run(tenant: str, *arguments: str, tasks: str = "configure", fails: bool = False) -> str:
        playbook, variables = tmp_path / "play.yml", tmp_path / "variables.yml"
        indented = tenant.replace("\n", "\n      ")
        places = {"virtualenv": VIRTUALENV, "flows": ROOT / "flows"}
        playbook.write_text(PLAY.format(tenants=indented, tasks=tasks, **places))
        password = api_arguments["api_auth_string"].partition(":")[2]
        # Nobody cannot run the virtualenv of a checkout, as it can that of a host.
        user = f"__prefect_objects_user: null\n__prefect_objects_folder: {tmp_path}/etc"
        variables.write_text(f"url: {api_arguments['api_url']}\npassword: !unsafe '{password}'\n{user}\n")
        (tmp_path / "hosts").write_text("here ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n")
        done = subprocess.run(
            [
                ROOT / ".venv/bin/ansible-playbook",
                "-i",
                tmp_path / "hosts",
                playbook,
                "-e",
                f"@{variables}",
                *arguments,
            ],
            env={
                **os.environ,
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
            },
            cwd=ROOT,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert SECRET not in done.stdout and password not in done.stdout
        assert done.returncode == (2 if fails else 0), done.stdout
        return done.stdout

    return run


def program(folder: Path, tenant: str, api_arguments: dict[str, str]) -> None:
    """Give a host the command pgprefect, and what it needs to know of the site."""
    etc, site = folder / "etc", {"login": {}, "database": "x", "tenants": [{"name": tenant, "schema": "prefect"}]}
    etc.mkdir()
    (etc / "pgprefect.json").write_text(json.dumps(site))
    password = re.sub(r'(["\\])', r"\\\1", api_arguments["api_auth_string"])
    settings = f'PREFECT_API_URL={api_arguments["api_url"]}\nPREFECT_API_AUTH_STRING="{password}"\n'
    (etc / f"{tenant}.env").write_text(settings)
    command = f'exec {quote(sys.executable)} -m pgprefect --config {etc}/pgprefect.json "$@"'
    (folder / "pgprefect").write_text(f"#!/bin/sh\nexport PYTHONPATH={quote(str(ROOT / 'module_utils'))}\n{command}\n")
    (folder / "pgprefect").chmod(0o755)


@pytest.mark.thorough
def test_a_whole_tenant(play: Play, api: Callable[..., Any], name: str, tmp_path: Path) -> None:
    tenant = TENANT.format(name=name, secret=SECRET)
    foretold = play(tenant, "--check", "--diff")
    assert f"automation run {name}" in foretold
    assert changed(foretold) == [7], foretold
    assert not [one for one in api("POST", "/variables/filter", {}) if one["name"].endswith(name)]

    assert changed(play(tenant, "--diff", "-vvv")) == [7]
    automations = {one["name"]: one for one in api("POST", "/automations/filter", {})}
    notify, pause = automations[f"report {name}"]["actions"]
    assert notify["body"] == "{{ flow_run.name }} failed"
    run, other = automations[f"run {name}"]["actions"]
    assert run["deployment_id"] == api("GET", f"/deployments/name/check-risk-limits/{name}")["id"]
    assert other["automation_id"] == automations[f"report {name}"]["id"] and pause["work_queue_id"]
    made = tmp_path / f"etc/{name}-made.json"
    written = tmp_path / f"etc/{name}-objects.json"
    assert written.stat().st_mode & 0o777 == 0o600 and SECRET not in written.read_text()

    assert changed(play(tenant)) == [0]
    play(tenant, tasks="drift")
    another = tenant.replace(SECRET, f"{SECRET}2")
    said = play(another, "-vvv", tasks="drift", fails=True)
    assert f"block slack-webhook/alerts-{name}" in said and "Apply the declaration with" in said
    done = play(another, "--diff", "-vvv")
    assert changed(done) == [1] and f"update block slack-webhook/alerts-{name}: url" in done
    play(another, tasks="drift")

    renamed = another.replace(f"symbols_{name}", f"tickers_{name}")
    assert changed(play(renamed)) == [2] and f"variable symbols_{name}" in made.read_text()
    assert api("GET", f"/variables/name/symbols_{name}")
    prune = ("-e", "prefect_objects_prune=true")
    foretold = play(renamed, "--check", "-v", *prune)
    assert changed(foretold) == [1] and f"variable symbols_{name}" in foretold
    assert api("GET", f"/variables/name/symbols_{name}")
    assert changed(play(renamed, *prune)) == [1] and changed(play(renamed, *prune)) == [0]
    assert {one["name"] for one in api("POST", "/variables/filter", {}) if one["name"].endswith(name)} == {
        f"tickers_{name}"
    }


def test_a_misspelt_target_is_found_before_anything_is_made(play: Play, api: Callable[..., Any], name: str) -> None:
    tenant = TENANT.format(name=name, secret=SECRET)
    for right, wrong, said in (
        (f"deployment: check-risk-limits/{name}", "deployment: check-risk-limits/misspelt", "deployment"),
        (f"block: slack-webhook/alerts-{name}", "block: slack-webhook/misspelt", "block"),
        (f"work_queue: pool {name}/urgent", f"work_queue: pool {name}/misspelt", "work queue"),
    ):
        assert right in tenant
        printed = play(tenant.replace(right, wrong), fails=True)
        assert re.search(rf"there is no {said} \S.*misspelt", printed), printed
        assert not [one for one in api("POST", "/variables/filter", {}) if one["name"].endswith(name)]
