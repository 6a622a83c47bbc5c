"""Deployments whose code is in a git repository, on real servers over https and ssh, run by a real worker."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.git_server import TOKEN, HttpsServer, Repository, serving_https
from tests.support.project import ROOT, VIRTUALENV
from tests.support.ssh_server import serving_ssh
from tests.support.waiting import wait_for

Result = dict[str, Any]
Api = Callable[..., Any]
POOL = "from-git"
FLOW = '''
import json
import os
from pathlib import Path
from typing import Literal

from prefect import flow

from parts import SAID


@flow(name="{name}")
def greet(answer: str = "", who: Literal[{who}] = "world") -> None:
    """Say hello."""
    found = {{"said": SAID, "config": Path(".git/config").read_text(), "environment": dict(os.environ)}}
    Path(answer).write_text(json.dumps(found))


def not_a_flow() -> None:
    pass
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repositories that both servers have."""
    return tmp_path_factory.mktemp("repositories")


@pytest.fixture(scope="module")
def https(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with serving_https(folder, tmp_path_factory.mktemp("https")) as server:
        yield server


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The folder with the key, and the port."""
    keys = tmp_path_factory.mktemp("ssh")
    with serving_ssh(keys, tmp_path_factory.getbasetemp()) as port:
        yield keys, port


@dataclass
class Deployment:
    """One flow in a repository of its own, its declaration, and what the server made of it."""

    repository: Repository
    run_module: Callable[..., Result]
    api: Api
    arguments: dict[str, Any]
    url: str
    flow: str = field(default_factory=lambda: f"greet-{uuid.uuid4()}")

    def commit(self, said: str, *, who: str = '"world", "moon"') -> str:
        return self.repository.commit(
            greet_py=FLOW.format(name=self.flow, who=who), parts_py=f"SAID = {said!r}\n", README="hello\n"
        )

    def declaration(self, **changes: Any) -> dict[str, Any]:
        source = {"git": self.url, "ref": "main", **changes.pop("source", {})}
        entrypoint = {"name": "daily", "flow": self.flow, "entrypoint": "greet.py:greet", "work_pool": POOL}
        return {**entrypoint, "source": source, **changes}

    def apply(self, *, check: bool = False, **changes: Any) -> Result:
        declared = [self.declaration(**changes)]
        return self.run_module("prefect_deployments", check=check, **self.arguments, deployments=declared)

    def stored(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api("GET", f"/deployments/name/{self.flow}/daily")
        return found


@pytest.fixture
def deployment(
    folder: Path,
    https: HttpsServer,
    run_module: Callable[..., Result],
    api: Api,
    api_arguments: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Deployment]:
    """A deployment from a public repository. The clones are in a folder of their own, and none of them stays."""
    run_module("prefect_work_pools", **api_arguments, pools=[{"name": POOL}])
    name, clones = f"public/{uuid.uuid4()}", tmp_path / "clones"
    clones.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(clones))
    arguments = {
        **api_arguments,
        "flows_directory": "/nowhere/flows",
        "virtualenv": str(VIRTUALENV),
        "git_environment": {"GIT_SSL_CAINFO": str(https.authority)},
    }
    yield Deployment(Repository.make(folder, name), run_module, api, arguments, f"{https.url}/{name}.git")
    assert list(clones.iterdir()) == []


def test_a_reference_is_one_commit_and_another_one_is_a_change(deployment: Deployment) -> None:
    name = f"deployment {deployment.flow}/daily"
    first = deployment.commit("one")
    deployment.repository.git("tag", "--annotate", "--message=One", "v1")
    deployment.repository.push()
    foretold = deployment.apply(check=True)
    assert foretold["actions"] == [f"create {name}"]
    done = deployment.apply()
    assert (done["actions"], done["diff"]) == (foretold["actions"], foretold["diff"])
    before = deployment.stored()
    assert (before["version"], before["description"]) == (first, "Say hello.")
    clone = {"repository": deployment.url, "commit_sha": first, "clone_directory_name": "repository"}
    assert before["pull_steps"] == [{"prefect.deployments.steps.git_clone": clone}]
    assert before["parameter_openapi_schema"]["properties"]["who"]["enum"] == ["world", "moon"]
    assert not deployment.apply()["changed"]

    second = deployment.commit("two", who='"world", "moon", "mars"')
    moved = f"update {name}: parameter_openapi_schema, pull_steps, version"
    assert deployment.apply(check=True)["actions"] == [moved] and deployment.stored()["version"] == first
    assert deployment.apply()["actions"] == [moved]
    assert deployment.stored()["version"] == second and deployment.stored()["id"] == before["id"]
    assert not deployment.apply(source={"ref": second})["changed"]

    for ref in ("v1", first, "refs/tags/v1"):
        assert deployment.apply(source={"ref": ref})["changed"] == (ref == "v1"), ref
    assert deployment.stored()["version"] == first
    assert deployment.stored()["parameter_openapi_schema"] == before["parameter_openapi_schema"]


REFUSED = [
    ({"source": {"ref": "lost"}}, "git_ref_unknown", "at lost: the repository has no such branch or tag"),
    ({"source": {"ref": "1" * 40}}, "git_ref_unknown", "the repository has no such commit"),
    ({"source": {"ref": "both"}}, "git_ref_unknown", "a branch and a tag of that name are different commits"),
    ({"source": {"git": "{https}/public/lost.git"}}, "git_unreadable", "lost.git at main: the server has no such repo"),
    ({"source": {"git": "{https}/private/x.git"}}, "git_unreadable", "does not let these credentials read it"),
    (
        {"source": {"git": "{https}/private/x.git", "credentials": "wrong-token"}},
        "git_unreadable",
        "does not let these credentials read it",
    ),
    ({"source": {"git": "https://127.0.0.1:9/x.git"}}, "git_unreadable", "the server does not answer"),
    # Nothing is asked for these.
    ({"source": {"git": "http://127.0.0.1/x.git"}}, "", "the code travels over https or ssh"),
    ({"source": {"git": "file:///x.git"}}, "", "the code travels over https or ssh"),
    ({"source": {"git": "https://me:s3cret@127.0.0.1/x.git"}}, "", "'https://***@127.0.0.1/x.git' is wrong: a user or"),
    ({"source": {"git": "--upload-pack=touch /x"}}, "", "it does not read https://HOST/PATH"),
    ({"source": {"git": "ssh://-oProxyCommand=x/y"}}, "", "it does not read https://HOST/PATH"),
    ({"source": {"ref": "--output=/x"}}, "", "the ref '--output=/x' is wrong: it is not a branch, a tag, or all"),
    ({"source": {"ref": "a b"}}, "", "the ref 'a b' is wrong"),
    ({"source": {"credentials": "lost"}}, "", "no git_credentials 'lost'"),
    ({"source": {"credentials": "two"}}, "", "they need exactly one of token (for https) and key (for ssh)"),
    ({"source": {"credentials": "no-host"}}, "", "a key needs known_hosts"),
    ({"source": {"git": "git@127.0.0.1:x.git"}}, "", "ssh needs credentials with a key"),
    ({"source": {"credentials": "deploy"}}, "", "https needs credentials with a token"),
]
CREDENTIALS: list[dict[str, Any]] = [
    {"name": "wrong-token", "token": "wr0ng"},
    {"name": "two", "token": "wr0ng", "key": "k3y", "known_hosts": ["x"]},
    {"name": "no-host", "key": "k3y"},
    {"name": "deploy", "key": "k3y", "known_hosts": ["x"]},
]


def test_what_can_not_be_run_is_refused_before_anything_is_made(deployment: Deployment, https: HttpsServer) -> None:
    deployment.commit("one")
    deployment.repository.git("tag", "both")
    deployment.commit("two")
    deployment.repository.push("main", "main:refs/heads/both", "refs/tags/both")
    deployment.arguments["git_credentials"] = CREDENTIALS
    for changes, code, complaint in REFUSED:
        result = deployment.apply(**json.loads(json.dumps(changes).replace("{https}", https.url)))
        assert result.get("failed") and complaint in result["msg"], (changes, result)
        assert {problem["code"] for problem in result["problems"]} == ({code} if code else set()), result
        assert result["msg"].startswith(f"Deployment {deployment.flow}/daily: "), result["msg"]
        assert not any(secret in result["msg"] for secret in ("s3cret", "wr0ng", "k3y"))
    deployment.arguments["git_environment"] = {}
    assert "the server's certificate is not trusted" in deployment.apply()["msg"]
    assert deployment.api("POST", "/deployments/filter", {"flows": {"name": {"any_": [deployment.flow]}}}) == []
    names = {"name": {"any_": [f"git-{one['name']}" for one in CREDENTIALS]}}
    assert deployment.api("POST", "/block_documents/filter", {"block_documents": names}) == []


def test_entrypoints_are_checked_at_the_commit(deployment: Deployment) -> None:
    commit = deployment.commit("one")
    wrong = [
        deployment.declaration(name="a", entrypoint="lost.py:greet"),
        deployment.declaration(name="b", entrypoint="greet.py:lost"),
        deployment.declaration(name="c", entrypoint="greet.py:not_a_flow"),
        deployment.declaration(name="d", flow="another"),
    ]
    result = deployment.run_module("prefect_deployments", **deployment.arguments, deployments=wrong)
    assert [problem["code"] for problem in result["problems"]] == ["flow_not_loadable"] * 4
    place = f"in {deployment.url} at main"
    for complaint in (
        f"{deployment.flow}/a: lost.py:greet {place}: there is no such file at the commit {commit[:12]}.",
        f"{deployment.flow}/b: greet.py:lost {place}: MissingFlowError",
        f"{deployment.flow}/c: greet.py:not_a_flow {place}: MissingFlowError",
        f"another/d: greet.py:greet {place} is the flow {deployment.flow}, not another.",
    ):
        assert complaint in result["msg"], result["msg"]


def test_only_check_mode_does_without_git(deployment: Deployment) -> None:
    deployment.arguments["git_environment"] = {"PATH": "/nowhere"}
    assert deployment.apply(check=True)["actions"] == [f"create deployment {deployment.flow}/daily"]
    assert "this host has no git" in deployment.apply()["msg"]


@pytest.fixture
def worker(prefect_environment: dict[str, str], https: HttpsServer, tmp_path: Path) -> Iterator[Path]:
    """A worker of the pool, with the log of all that git is called with."""
    shim = tmp_path / "bin/git"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{tmp_path}/git.log\nexec /usr/bin/git "$@"\n')
    shim.chmod(0o755)
    settings = {
        "PATH": f"{shim.parent}:{os.environ['PATH']}",
        "GIT_SSL_CAINFO": str(https.authority),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_WEBSERVER_PORT": "0",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
    }
    program = ROOT / "roles/prefect_worker/files/draining_worker.py"
    with (tmp_path / "worker.log").open("w") as log:
        started = subprocess.Popen(
            [VIRTUALENV / "bin/python", "-I", program, POOL, "w", "2"],
            env={**prefect_environment, **settings},
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield tmp_path
    started.kill()
    started.wait()


def completed(deployment: Deployment, home: Path) -> dict[str, Any]:
    """Run the deployment, and return what its flow saw."""
    answer = home / f"{uuid.uuid4()}.json"
    body = {"parameters": {"answer": str(answer)}}
    run = deployment.api("POST", f"/deployments/{deployment.stored()['id']}/create_flow_run", body)["id"]

    def state() -> Any:
        found = deployment.api("GET", f"/flow_runs/{run}")["state"]
        return found if found["type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    ended = wait_for(state, (home / "worker.log").read_text, seconds=120)
    assert ended["type"] == "COMPLETED", (home / "worker.log").read_text()
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


@pytest.mark.thorough
def test_a_private_repository_by_a_token(
    deployment: Deployment, folder: Path, https: HttpsServer, worker: Path
) -> None:
    private = f"private/{uuid.uuid4()}"
    deployment.repository = Repository.make(folder, private)
    deployment.url = f"{https.url}/{private}.git"
    name = f"t{uuid.uuid4()}"
    deployment.arguments["git_credentials"] = [{"name": name, "token": TOKEN, "username": "robot"}]
    source: dict[str, Any] = {"source": {"credentials": name}}

    checked = deployment.commit("one")
    created = deployment.apply(**source)
    assert created["actions"] == [
        f"create secret block git-{name}",
        f"create deployment {deployment.flow}/daily",
    ]
    deployment.commit("two")
    first = completed(deployment, worker)
    assert (first["said"], deployment.stored()["version"]) == ("one", checked)

    (block,) = deployment.api(
        "POST", "/block_documents/filter", {"block_documents": {"name": {"any_": [f"git-{name}"]}}}
    )
    deployment.api("PATCH", f"/block_documents/{block['id']}", {"data": {"value": "0lder"}})
    moved = deployment.apply(**source)
    assert moved["actions"][0] == f"update secret block git-{name}: value" and len(moved["actions"]) == 2
    assert completed(deployment, worker)["said"] == "two"
    assert not deployment.apply(**source)["changed"]

    assert f"robot:{TOKEN}" in https.logins
    calls = (worker / "git.log").read_text()
    assert "clone" in calls and deployment.url in first["config"]
    logs = deployment.api("POST", "/logs/filter", {"logs": {}, "limit": 200})
    events = deployment.api("POST", "/events/filter", {"filter": {"event": {"prefix": ["prefect.flow-run.pull-step"]}}})
    assert events["events"] and logs
    places = [calls, first, logs, events, deployment.stored(), created, moved, (worker / "worker.log").read_text()]
    assert [place for place in places if TOKEN in json.dumps(place)] == []


def test_a_private_repository_by_a_deploy_key(
    deployment: Deployment, ssh: tuple[Path, int], worker: Path, tmp_path: Path
) -> None:
    keys, port = ssh
    key, known_hosts = (keys / "ssh_key").read_text(), (keys / "known_hosts").read_text().splitlines()
    deployment.url = f"ssh://root@127.0.0.1:{port}{deployment.repository.bare}"
    # As the role of the workers writes them.
    (tmp_path / "deploy").write_text(key)
    (tmp_path / "deploy").chmod(0o600)
    (tmp_path / "deploy.known_hosts").write_text("\n".join(known_hosts))
    deployment.arguments["git_keys_directory"] = str(tmp_path)

    def credentials(**changes: Any) -> None:
        one = {"name": "deploy", "key": key, "known_hosts": known_hosts, **changes}
        deployment.arguments["git_credentials"] = [one]

    source: dict[str, Any] = {"source": {"credentials": "deploy"}}
    checked = deployment.commit("one")
    credentials(known_hosts=[f"[127.0.0.1]:{port} {(keys / 'ssh_key.pub').read_text()}"])
    assert "the host's key is not one of known_hosts" in deployment.apply(**source)["msg"]
    credentials(key=(keys / "host_key").read_text())
    assert "does not let these credentials read it" in deployment.apply(**source)["msg"]
    credentials()
    lost: dict[str, Any] = {"source": {"credentials": "deploy", "git": f"ssh://root@127.0.0.1:{port}/lost.git"}}
    assert "the server has no such repository" in deployment.apply(**lost)["msg"]
    created = deployment.apply(**source)
    assert created["actions"] == [f"create deployment {deployment.flow}/daily"]

    deployment.commit("two")
    first = completed(deployment, worker)
    assert (first["said"], deployment.stored()["version"]) == ("one", checked)
    assert "GIT_SSH_COMMAND" not in first["environment"] and "PRIVATE KEY" not in json.dumps([created, first])
    assert deployment.apply(**source)["changed"]
    assert completed(deployment, worker)["said"] == "two"
