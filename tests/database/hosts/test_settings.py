"""host_preflight asks PostgreSQL itself about settings, and leaves the host and its server as they are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgresql import Server, docker
from tests.support.project import ROOT

Look = Callable[..., list[dict[str, str]]]


@pytest.fixture(scope="module")
def version(postgresql_server: Server) -> str:
    ((number,),) = postgresql_server.sql("postgres", "SHOW server_version_num")
    return str(int(number) // 10000)


@pytest.fixture
def look(postgresql_server: Server, version: str, tmp_path: Path) -> Look:
    """Ask the container, as root, about settings; return the problems."""
    inventory, playbook = tmp_path / "hosts.json", tmp_path / "play.yml"
    host = {
        "ansible_connection": "community.docker.docker",
        "ansible_docker_host": postgresql_server.container,
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    inventory.write_text(json.dumps({"all": {"hosts": {"database": host}}}))

    def run(settings: dict[str, Any], file: str = "/nowhere") -> list[dict[str, str]]:
        asked = {"variable": "postgresql_settings", "version": version, "settings": settings, "file": file}
        answer = tmp_path / "answer.json"
        tasks = [
            {"host_preflight": {"requirements": [{"settings": [asked]}]}, "register": "found"},
            {
                "ansible.builtin.copy": {"dest": str(answer), "content": "{{ found.problems | to_json }}"},
                "delegate_to": "localhost",
                "vars": {"ansible_connection": "local", "ansible_user": None},
            },
        ]
        playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
        done = subprocess.run(
            [ROOT / ".venv/bin/ansible-playbook", "-i", inventory, playbook],
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        problems: list[dict[str, str]] = json.loads(answer.read_text())
        return problems

    return run


def files(server: Server) -> str:
    """All files of the host but those of the running cluster and of processes, with their size, mode and time."""
    command = (
        "find / -xdev ( -path /proc -o -path /sys -o -path /tmp -o -path /root/.ansible -o -name pgdata -o -name data )"
        " -prune -o -type f -printf %p_%s_%m_%T@\\n"
    )
    return docker("exec", "--user", "root", server.container, *command.split(" "))


@pytest.mark.parametrize(
    ("settings", "code", "messages"),
    [
        (
            {"no_such_setting": 1, "shared_buffers": "900TB", "work_mem": "8MB", "wal_level": "nonsense"},
            "setting_refused",
            [
                "postgresql_settings.no_such_setting is '1', which PostgreSQL refuses: unrecognized",
                "postgresql_settings.shared_buffers is '900TB', which PostgreSQL refuses: invalid value",
                "Available values: minimal, replica, logical",
            ],
        ),
        ({"shared_preload_libraries": "nolib"}, "settings_refused", ['could not access file "nolib"']),
        pytest.param(
            {"wal_level": "minimal"},
            "settings_refused",
            ["postgresql_settings: PostgreSQL does not start with wal_level"],
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_settings_that_would_stop_the_server(
    look: Look, postgresql_server: Server, settings: dict[str, Any], code: str, messages: list[str]
) -> None:
    before = files(postgresql_server)
    problems = look(settings)
    assert {problem["code"] for problem in problems} == {code}
    assert [problem["object"] for problem in problems if "work_mem" in problem["object"]] == []
    for problem, message in zip(problems, messages, strict=True):
        assert message in problem["message"] and problem["remedy"]
    assert files(postgresql_server) == before
    assert postgresql_server.answers()


def test_settings_that_are_well(look: Look, postgresql_server: Server) -> None:
    before = files(postgresql_server)
    archiving = {"archive_mode": True, "archive_command": "touch /var/lib/postgresql/archived"}
    quoted = {"work_mem": "8MB", "log_line_prefix": "it's %m ", "my.own": "x", "random_page_cost": 1.5}
    assert look({**archiving, **quoted}) == []
    assert files(postgresql_server) == before


def test_settings_in_use_are_not_proved_again(look: Look, postgresql_server: Server) -> None:
    docker(
        "exec", "--user", "root", postgresql_server.container, "sh", "-c", "echo \"x.y = 'it''s'\" > /tmp/in_use.conf"
    )
    assert look({"x.y": "it's"}, "/tmp/in_use.conf") == []
    assert look({"x.y": "it's", "no_such_setting": 1}, "/tmp/in_use.conf")
