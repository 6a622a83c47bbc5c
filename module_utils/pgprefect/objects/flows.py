"""The code of flows: its version, and what Prefect knows of a flow after loading it."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import ProblemError
from ..core.problems import Problem

_LOAD_SECONDS = 300

# Runs in Prefect's virtualenv: importing Prefect takes seconds, so once for all flows. Each flow is loaded as a worker
# does, in a process of its own: two may import different modules of one name.
_LOAD_FLOWS = """
import json, os, sys
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

def load(entrypoint):
    try:
        flow = load_flow_from_entrypoint(entrypoint)
        schema = parameter_schema(flow).model_dump_for_openapi()
        return {"name": flow.name, "description": flow.description, "schema": schema}
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"}

loaded = {}
for entrypoint in json.load(sys.stdin):
    reader, writer = os.pipe()
    if not os.fork():
        with os.fdopen(writer, "w") as answer:
            json.dump(load(entrypoint), answer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.wait()
    loaded[entrypoint] = json.loads(text or '{"error": "the process that loaded it was killed"}')
print(json.dumps(loaded))
"""


class FlowError(ProblemError):
    """The code of a flow is missing, or cannot be loaded."""


@dataclass(frozen=True)
class FlowCode:
    """The folder with the code of flows, and the virtualenv and the user with which they are loaded.

    Without a user it is the process's own. ``pools`` has the virtualenvs of work pools with libraries of their own.
    An entrypoint is a file of the folder and a function: ``file.py:function``.
    """

    directory: str
    virtualenv: str
    user: str | None = None
    pools: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> str:
        return os.path.join(self.virtualenv, "bin", "python")

    def of_pool(self, name: str) -> FlowCode:
        """Return the same with the virtualenv of a work pool, if it has one and that is there."""
        own = replace(self, virtualenv=self.pools.get(name, self.virtualenv))
        return own if os.path.exists(own.python) else self

    def version(self, entrypoint: str, required: bool = True) -> str | None:
        """Return a digest of the flow's file and of all that it imports from the folder, packages included.

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
            if file in seen:
                continue
            seen.add(file)
            code = file.read_bytes()
            digest.update(str(file.relative_to(self.directory)).encode() + b"\0" + code + b"\0")
            for base, module in imports(ast.walk(_parse(file, code)), file):
                # The folders that a worker puts on Python's path.
                roots = [base] if base else [flow.parent, Path(self.directory)]
                pending += module_files(roots, module, Path(self.directory))
        return digest.hexdigest()[:16]

    def load(self, entrypoints: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return ``name``, ``description`` and ``schema`` of the parameters, or an ``error``, by entrypoint.

        Their modules run, as in a worker; where one cannot, its flow is read without what it lacks. Raises FlowError.
        """
        with temporary_home(self.user) as (home, identity):
            try:
                run = subprocess.run(
                    [self.python, "-I", "-B", "-c", _LOAD_FLOWS],
                    input=json.dumps(entrypoints),
                    cwd=self.directory,
                    env={
                        "HOME": home,
                        "PREFECT_HOME": home,
                        # Code that asks the API when it is loaded must not start a server of its own here.
                        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
                        "DO_NOT_TRACK": "1",
                        "PATH": "/usr/bin:/bin",
                        "LC_ALL": "C.UTF-8",
                    },
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


@contextlib.contextmanager
def temporary_home(user: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give a folder that only an account sees, this process's own without one, and how subprocess runs as it."""
    with tempfile.TemporaryDirectory() as home:
        identity: dict[str, Any] = {}
        if user:
            account = pwd.getpwnam(user)
            os.chown(home, account.pw_uid, account.pw_gid)
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        yield home, identity


def imports(nodes: Iterable[ast.AST], file: Path) -> Iterator[tuple[Path | None, str]]:
    """Yield the modules that statements of a file import, and of relative ones the folder where they are."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((None, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else None
            yield base, node.module or ""
            # What is imported from a package may be a module of it.
            prefix = f"{node.module}." if node.module else ""
            yield from ((base, f"{prefix}{alias.name}") for alias in node.names)


def module_files(roots: Iterable[Path], module: str, folder: Path) -> list[Path]:
    """Return the files of a folder that importing a module runs: those of its packages, and its own."""
    parts = module.split(".") if module else []
    for root in roots:
        bases = [root.joinpath(*parts[:length]) for length in range(len(parts) + 1)]
        files = [file for base in bases[1:] for file in (base / "__init__.py", base.with_suffix(".py"))]
        # The root is a package where the import is relative.
        found = [
            file
            for file in ([bases[0] / "__init__.py"] if not module else files)
            if folder in file.parents and file.is_file()
        ]
        if found:
            return found
    return []


def _parse(file: Path, code: bytes) -> ast.Module:
    try:
        return ast.parse(code)
    except SyntaxError as error:
        message = f"{file}, line {error.lineno}: {error.msg}."
        raise FlowError(flow_problem(f"file {file}", message, "Correct the code.")) from error


def flow_problem(what: str, message: str, remedy: str) -> Problem:
    return Problem("flow_not_loadable", object=what, message=message, remedy=remedy)
