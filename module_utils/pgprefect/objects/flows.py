"""The code of flows: its version, and what Prefect knows of a flow after loading it."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pwd
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ProblemError
from ..core.problems import Problem

_LOAD_SECONDS = 300

# Runs in Prefect's virtualenv: importing Prefect takes seconds, so once for all flows.
_LOAD_FLOWS = """
import json, sys
from prefect.flows import Flow, safe_load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

loaded = {}
for entrypoint in json.load(sys.stdin):
    try:
        flow = safe_load_flow_from_entrypoint(entrypoint)
        if not isinstance(flow, Flow):
            raise TypeError("there is no function of this name with the decorator @flow")
        schema = parameter_schema(flow).model_dump_for_openapi()
        loaded[entrypoint] = {"name": flow.name, "description": flow.description, "schema": schema}
    except Exception as error:
        loaded[entrypoint] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(loaded))
"""


class FlowError(ProblemError):
    """The code of a flow is missing, or cannot be loaded."""


@dataclass(frozen=True)
class FlowCode:
    """The folder with the code of flows, and the virtualenv and the user with which they are loaded.

    Without a user it is the process's own. An entrypoint is a file of the folder and a function: ``file.py:function``.
    """

    directory: str
    virtualenv: str
    user: str | None = None

    @property
    def python(self) -> str:
        return os.path.join(self.virtualenv, "bin", "python")

    def version(self, entrypoint: str, required: bool = True) -> str | None:
        """Return a digest of the flow's file and of the modules of the folder that it imports.

        Raises FlowError if there is no file, or returns None where it is not required.
        """
        flow = Path(self.directory, entrypoint.partition(":")[0])
        if not flow.is_file():
            if not required:
                return None
            message = f"The flow's file {flow} does not exist."
            raise FlowError(flow_problem(f"flow {entrypoint}", message, "Copy the flows to this host first."))
        pending, seen = [flow], set()
        digest = hashlib.sha256()
        while pending:
            file = pending.pop()
            if file in seen or not file.is_file():
                continue
            seen.add(file)
            code = file.read_bytes()
            digest.update(str(file.relative_to(self.directory)).encode() + b"\0" + code + b"\0")
            pending += [flow.parent / (name.replace(".", "/") + ".py") for name in _imported_modules(file, code)]
        return digest.hexdigest()[:16]

    def load(self, entrypoints: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return ``name``, ``description`` and ``schema`` of the parameters, or an ``error``, by entrypoint.

        Nothing of the flows is executed but their imports. Raises FlowError.
        """
        with tempfile.TemporaryDirectory() as home:
            identity: dict[str, Any] = {}
            if self.user:
                account = pwd.getpwnam(self.user)
                os.chown(home, account.pw_uid, account.pw_gid)
                identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            try:
                run = subprocess.run(
                    [self.python, "-I", "-B", "-c", _LOAD_FLOWS],
                    input=json.dumps(entrypoints),
                    cwd=self.directory,
                    env={"HOME": home, "PREFECT_HOME": home, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                    capture_output=True,
                    text=True,
                    timeout=_LOAD_SECONDS,
                    check=False,
                    **identity,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise self._not_loaded(str(error)) from error
        if run.returncode != 0:
            raise self._not_loaded(run.stderr.strip()[-2000:])
        # An import may have printed something before.
        loaded: dict[str, dict[str, Any]] = json.loads(run.stdout.splitlines()[-1])
        return loaded

    def _not_loaded(self, reason: str) -> FlowError:
        message = f"The flows could not be loaded with {self.python}: {reason}"
        remedy = "Check that this is a virtualenv with Prefect and the packages of the flows; site.yml installs it."
        return FlowError(flow_problem(f"virtualenv {self.virtualenv}", message, remedy))


def _imported_modules(file: Path, code: bytes) -> list[str]:
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        message = f"{file}, line {error.lineno}: {error.msg}."
        raise FlowError(flow_problem(f"file {file}", message, "Correct the code.")) from error
    nodes = list(ast.walk(tree))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return plain + [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]


def flow_problem(what: str, message: str, remedy: str) -> Problem:
    return Problem("flow_not_loadable", object=what, message=message, remedy=remedy)
