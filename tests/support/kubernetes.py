"""A real API server of Kubernetes with its controllers, and a stand-in for the kubelet that runs pods as processes.

The API server listens where the containers of this machine reach it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.error import HTTPError

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.postgresql import docker
from tests.support.project import ROOT, VIRTUALENV
from tests.support.waiting import wait_for

PROGRAMS = ROOT / ".cache/kubernetes"
# Of pods: what their image would have.
_PATH = f"{VIRTUALENV.resolve()}/bin:{os.environ['PATH']}"
_ADMINISTRATOR = "administrators-token"
_FORMS = {"PATCH": "application/merge-patch+json"}


@dataclass
class Cluster:
    """The API server's address, and its authority, of a cluster that has no nodes."""

    address: str
    port: int
    authority: str

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.port}"

    def call(self, method: str, path: str, body: Any = None, token: str = _ADMINISTRATOR) -> tuple[int, Any]:
        """Send a request and return the status and the JSON of the answer."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": _FORMS.get(method, "application/json")}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, content, headers, method=method)
        trust = ssl.create_default_context(cadata=self.authority)
        try:
            with urllib.request.urlopen(request, timeout=30, context=trust) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    def get(self, path: str) -> Any:
        """Return what the administrator reads, which is there."""
        status, found = self.call("GET", path)
        assert status == 200, found
        return found

    def kubeconfig(self, token: str = _ADMINISTRATOR) -> dict[str, Any]:
        """Return a kubeconfig with a token, the administrator's unless it is given."""
        authority = base64.b64encode(self.authority.encode()).decode()
        return {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": self.server, "certificate-authority-data": authority}}],
            "users": [{"name": "test", "user": {"token": token}}],
        }


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Start etcd, the API server and its controllers."""
    if not (PROGRAMS / "kube-apiserver").exists():
        raise FileNotFoundError(f"{PROGRAMS} lacks Kubernetes' programs: box/kubernetes builds them.")
    client, peer, port = free_port(), free_port(), free_port()
    address = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
    authority = Authority("cluster")
    certificate, key = authority.write(folder, "apiserver", address, "10.0.0.1", "kubernetes.default.svc")
    (folder / "tokens.csv").write_text(f"{_ADMINISTRATOR},administrator,1,system:masters\n")
    cluster = Cluster(address, port, authority.certificate)
    config = folder / "controllers.json"
    config.write_text(json.dumps(cluster.kubeconfig()))
    accounts = folder / "accounts.key"
    form = serialization.PrivateFormat.TraditionalOpenSSL
    key_of_accounts = rsa.generate_private_key(65537, 2048)
    accounts.write_bytes(key_of_accounts.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    etcd = f"http://127.0.0.1:{client}"
    commands = {
        "etcd": [
            *(f"--data-dir={folder}/etcd", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
            *(f"--listen-peer-urls=http://127.0.0.1:{peer}", "--unsafe-no-fsync"),
        ],
        "kube-apiserver": [
            *(f"--etcd-servers={etcd}", f"--secure-port={port}", f"--bind-address={address}"),
            *(f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}", "--authorization-mode=RBAC"),
            *(f"--token-auth-file={folder}/tokens.csv", "--service-cluster-ip-range=10.0.0.0/24"),
            *(f"--service-account-key-file={accounts}", f"--service-account-signing-key-file={accounts}"),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--cert-dir={folder}"),
        ],
        "kube-controller-manager": [
            *(
                f"--kubeconfig={config}",
                f"--service-account-private-key-file={accounts}",
                "--use-service-account-credentials",
            ),
            *("--leader-elect=false", "--port=0", f"--secure-port={free_port()}", f"--cert-dir={folder}"),
        ],
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, arguments in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                started.append(subprocess.Popen([PROGRAMS / name, *arguments], stdout=log, stderr=log, cwd=folder))
            if name == "kube-apiserver":
                said = (folder / f"{name}.log").read_text
                wait_for(lambda: started[-1].poll() is not None or is_ready(cluster), said, 120)
                assert started[-1].poll() is None, said()[-4000:]
        yield cluster
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def is_ready(cluster: Cluster) -> bool:
    """Return whether the API server serves, with the roles that it makes for itself."""
    with contextlib.suppress(OSError, ValueError):
        return cluster.call("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin")[0] == 200
    return False


@dataclass
class Kubelet:
    """Runs the pods of a namespace as processes of this machine, and tells the API server how they end.

    A pod sees its ConfigMaps where it mounts them, and in /opt/prefect/flows ``flows``, as its image would have them.
    """

    cluster: Cluster
    namespace: str
    folder: Path
    flows: Path | None = None
    pods: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _reported: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[Kubelet]:
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()
            for process in self.pods.values():
                # With what a pod that was killed left behind.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _work(self) -> None:
        while not self._stop.wait(0.2):
            listed = self.cluster.get(f"/api/v1/namespaces/{self.namespace}/pods")["items"]
            present = {pod["metadata"]["name"]: pod for pod in listed}
            for name, pod in present.items():
                if name not in self.pods:
                    if pod["status"]["phase"] == "Pending" and "deletionTimestamp" not in pod["metadata"]:
                        self._start(name, pod)
                elif self.pods[name].poll() is not None and name not in self._reported:
                    self._reported.add(name)
                    self._report(name, self.pods[name].returncode)
            for name in self.pods.keys() - present.keys():
                self.pods[name].send_signal(signal.SIGTERM)

    def _start(self, name: str, pod: Mapping[str, Any]) -> None:
        (container,) = pod["spec"]["containers"]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.pods[name] = subprocess.Popen(
                [*self._mounts(pod["spec"], container), *container["args"]],
                env=self._environment(container),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._set(name, "Running", {"running": {"startedAt": _now()}})

    def _mounts(self, spec: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
        """Return the beginning of a command that gives a pod's process its files."""
        maps = {volume["name"]: volume["configMap"]["name"] for volume in spec.get("volumes", ())}
        places = {Path("/opt/prefect/flows"): self.flows} if self.flows else {}
        for mount in container.get("volumeMounts", ()):
            content = self.folder / maps[mount["name"]]
            content.mkdir(exist_ok=True)
            path = f"/api/v1/namespaces/{self.namespace}/configmaps/{content.name}"
            for key, value in self.cluster.get(path)["data"].items():
                (content / key).write_text(value)
            places[Path(mount["mountPath"])] = content
        if not places:
            return []
        script = [f"mount -t tmpfs tmpfs /{top}" for top in {place.parts[1] for place in places}]
        script += [f"mkdir --parents {place}; cp -r {quote(f'{source}/.')} {place}" for place, source in places.items()]
        return ["unshare", "--mount", "sh", "-ec", "\n".join([*script, 'exec "$@"']), "sh"]

    def _environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        environment = {"PATH": _PATH, "HOME": str(home)}
        for source in container.get("envFrom", ()):
            environment |= self._secret(source["secretRef"]["name"])
        for one in container["env"]:
            reference = one.get("valueFrom", {}).get("secretKeyRef")
            value = self._secret(reference["name"])[reference["key"]] if reference else one.get("value", "")
            environment[one["name"]] = value
        return environment

    def _secret(self, name: str) -> dict[str, str]:
        data = self.cluster.get(f"/api/v1/namespaces/{self.namespace}/secrets/{name}")["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def _report(self, name: str, code: int) -> None:
        ended = {"exitCode": code if code >= 0 else 128 - code, "reason": "Error" if code else "Completed"}
        self._set(name, "Failed" if code else "Succeeded", {"terminated": {**ended, "finishedAt": _now()}})

    def _set(self, name: str, phase: str, state: Mapping[str, Any]) -> None:
        container = {"name": "prefect-job", "image": "", "imageID": "", "ready": False, "restartCount": 0}
        status = {"phase": phase, "startTime": _now(), "containerStatuses": [{**container, "state": state}]}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/status"
        code, said = self.cluster.call("PATCH", path, {"status": status})
        assert code in (200, 404), said


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
