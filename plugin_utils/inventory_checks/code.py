"""The code of flows on the controller: read, and never run."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from pgprefect.objects.flows import imports, module_files

from .suggestions import did_you_mean

# What every virtualenv of Prefect imports besides its locks.
_OURS = ("pgprefect", "psycopg2")
# Packages that are imported by another name than their own; `prefect_flows_modules` names further modules.
_MODULES = {
    "attrs": ("attr", "attrs"),
    "beautifulsoup4": ("bs4",),
    "google-cloud-storage": ("google",),
    "msgpack-python": ("msgpack",),
    "mysqlclient": ("MySQLdb",),
    "opencv-python": ("cv2",),
    "opencv-python-headless": ("cv2",),
    "pillow": ("PIL",),
    "protobuf": ("google",),
    "pycryptodome": ("Crypto",),
    "pyjwt": ("jwt",),
    "pyopenssl": ("OpenSSL",),
    "pyserial": ("serial",),
    "python-slugify": ("slugify",),
    "pywin32-ctypes": ("win32ctypes",),
    "pyyaml": ("yaml",),
    "pyzmq": ("zmq",),
    "ruamel-yaml": ("ruamel",),
    "scikit-image": ("skimage",),
    "scikit-learn": ("sklearn",),
    "setuptools": ("setuptools", "pkg_resources"),
}


def locked_modules(locks: Iterable[Path]) -> set[str]:
    """Return the names by which the packages of locks can be imported, in small letters."""
    modules: set[str] = set()
    for lock in locks:
        if not lock.is_file():
            continue
        for name in re.findall(r"^([A-Za-z0-9][\w.-]*)==", lock.read_text(), re.MULTILINE):
            normal = re.sub(r"[-_.]+", "-", name).lower()
            plain = re.sub(r"^(python|py)-|-(python|py|binary|client)$", "", normal)
            names = {normal.replace("-", "_"), plain.replace("-", "_"), normal.partition("-")[0]}
            modules |= names | {module.lower() for module in _MODULES.get(normal, ())}
    return modules


class Flows:
    """The folder with the flows, and the modules that they may import besides the standard library's and its own."""

    def __init__(self, folder: Path, modules: Collection[str], libraries: str = "requirements/flows") -> None:
        """Take also the locks of the modules' packages, without their end."""
        self.folder = folder
        self._libraries = libraries
        self._modules = {name.lower() for name in (*modules, *_OURS)}
        self._trees: dict[Path, ast.Module | str] = {}

    def faults(self, path: str, deployment: Mapping[str, str]) -> Iterator[str]:
        """Yield what is wrong with the entrypoint of a deployment, with all that it imports from the folder."""
        entrypoint = deployment["entrypoint"]
        name = entrypoint.partition(":")[0]
        here, file = f"{path}.entrypoint: {entrypoint}", self.folder / name
        links = [part for part in (file, *file.parents) if part.is_relative_to(self.folder) and part != self.folder]
        if any(part.is_symlink() for part in links):
            yield f"{here} leads through a link, and links are not copied to the hosts: name a file in {self.folder}."
        elif not file.is_file():
            near = did_you_mean(name, self._names) or ". Copy it there, or correct the entrypoint."
            yield f"{here}: {name} is not in the folder of the flows, {self.folder}{near}"
        else:
            yield from self._function_faults(path, deployment, file)
            yield from self._import_faults(here, file)

    @cached_property
    def _names(self) -> list[str]:
        return sorted(str(found.relative_to(self.folder)) for found in self.folder.rglob("*.py"))

    def _tree(self, file: Path) -> ast.Module | str:
        """Return a file's syntax tree, or why it has none."""
        if file not in self._trees:
            try:
                self._trees[file] = ast.parse(file.read_bytes())
            except (OSError, SyntaxError, ValueError) as error:
                line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
                self._trees[file] = f"{file}{line} cannot be read as Python ({getattr(error, 'msg', error)})"
        return self._trees[file]

    def _function_faults(self, path: str, deployment: Mapping[str, str], file: Path) -> Iterator[str]:
        entrypoint, flow = deployment["entrypoint"], deployment["flow"]
        here, function = f"{path}.entrypoint: {entrypoint}", entrypoint.partition(":")[2]
        tree = self._tree(file)
        if isinstance(tree, str):
            return  # said by the check of the imports
        bound = dict(_bindings(tree.body))
        if function not in bound:
            near = did_you_mean(function, bound) or ". Correct the name."
            yield f"{here}: {file.name} has no function {function}{near}"
            return
        definition = bound[function]
        if not isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if not definition.decorator_list:
            yield f"{here}: {function} has no decorator @flow in {file.name}: decorate it, or name the flow's function."
        elif flow and (name := _flow_name(definition)) and name != flow:
            yield f"{path}.flow is {flow!r}, but {entrypoint} is the flow {name!r}: correct the name of the flow."

    def _import_faults(self, here: str, file: Path) -> Iterator[str]:
        roots = (file.parent, self.folder)
        pending, seen = [file], set()
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            tree = self._tree(current)
            if isinstance(tree, str):
                yield f"{here}: {tree}: correct the code."
                continue
            for base, module in imports(_loaded(tree.body), current):
                pending += module_files([base] if base else roots, module, self.folder)
                first = module.partition(".")[0]
                if not base and not self._is_known(first, roots):
                    yield (
                        f"{here}: {current.relative_to(self.folder)} imports {first}, which is not in the folder of "
                        f"the flows and in no lock: add its package to {self._libraries}.in and run requirements/lock, "
                        "or name the module in prefect_flows_modules if a package has it under another name."
                    )

    def _is_known(self, module: str, roots: Iterable[Path]) -> bool:
        in_folder = any((root / module).is_dir() or (root / f"{module}.py").is_file() for root in roots)
        return in_folder or module in sys.stdlib_module_names or module.lower() in self._modules


def _bindings(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names that the statements of a module bind, also inside of conditions."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield (alias.asname or alias.name).partition(".")[0], node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, node) for target in targets if isinstance(target, ast.Name))
        for inner in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(node, (ast.If, ast.Try, ast.With, ast.ExceptHandler)):
                yield from _bindings(getattr(node, inner, ()))


def _flow_name(definition: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the name that @flow gives to a flow, or nothing where the code works it out."""
    for decorator in definition.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(called) not in ("flow", "prefect.flow"):
            continue
        keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
        if any(keyword.arg in (None, "name") for keyword in keywords):
            given = [keyword.value for keyword in keywords if keyword.arg == "name"]
            constant = given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str)
            return str(given[0].value) if constant else ""  # type: ignore[attr-defined]
        return definition.name.replace("_", "-")
    return ""


def _loaded(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that loading a module runs, without those of a try and of a condition."""
    for node in body:
        yield node
        if isinstance(node, (ast.With, ast.ClassDef)):
            yield from _loaded(node.body)
