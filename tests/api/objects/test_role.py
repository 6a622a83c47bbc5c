"""The role prefect_objects against a real server: all kinds in one run, in the order in which they need each other."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import changed
from tests.support.project import ROOT, VIRTUALENV

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
def play(tmp_path: Path, api_arguments: dict[str, str]) -> Play:
    """Run tasks of the role with a tenant, and return all that Ansible says."""

    def run(tenant: str, *arguments: str, tasks: str = "configure") -> str:
        playbook, variables = tmp_path / "play.yml", tmp_path / "variables.yml"
        indented = tenant.replace("\n", "\n      ")
        places = {"virtualenv": VIRTUALENV, "flows": ROOT / "flows"}
        playbook.write_text(PLAY.format(tenants=indented, tasks=tasks, **places))
        password = api_arguments["api_auth_string"].partition(":")[2]
        # Nobody cannot run the virtualenv of a checkout, as it can that of a host.
        user = "__prefect_objects_user: null"
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
                "--diff",
                "-vvv",
                *arguments,
            ],
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            cwd=ROOT,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert SECRET not in done.stdout and password not in done.stdout
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def test_a_whole_tenant(play: Play, api: Callable[..., Any], name: str) -> None:
    tenant = TENANT.format(name=name, secret=SECRET)
    foretold = play(tenant, "--check")
    assert f"create automation run {name}" in foretold
    assert changed(foretold) == [6], foretold
    assert not [one for one in api("POST", "/variables/filter", {}) if one["name"].endswith(name)]

    assert changed(play(tenant)) == [6]
    automations = {one["name"]: one for one in api("POST", "/automations/filter", {})}
    notify, pause = automations[f"report {name}"]["actions"]
    assert notify["body"] == "{{ flow_run.name }} failed"
    run, other = automations[f"run {name}"]["actions"]
    assert run["deployment_id"] == api("GET", f"/deployments/name/check-risk-limits/{name}")["id"]
    assert other["automation_id"] == automations[f"report {name}"]["id"] and pause["work_queue_id"]

    assert changed(play(tenant)) == changed(play(tenant, "--check")) == [0]
    another = play(tenant.replace(SECRET, f"{SECRET}2"))
    assert changed(another) == [1] and f"update block slack-webhook/alerts-{name}: url" in another
