"""What an import of pgprefect brings with it."""

from __future__ import annotations

import ast
import subprocess
import sys

import pgprefect
import pytest
from pgprefect import manager

from tests.support.project import ROOT


def test_the_package_needs_neither_ansible_nor_prefect_nor_a_driver_to_be_imported() -> None:
    paths = [path.relative_to(ROOT / "module_utils") for path in (ROOT / "module_utils/pgprefect").rglob("*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in paths if path.stem not in ("__init__", "__main__")]
    assert len(modules) > 30
    program = (
        f"import sys; sys.modules.update(dict.fromkeys(['ansible', 'prefect', 'psycopg2']))\n"
        f"import importlib\nfor name in {modules}: importlib.import_module(name)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT / "module_utils", check=True)


def test_a_module_takes_no_more_with_it_than_it_needs() -> None:
    """Ansible sends to a host what it finds imported in the source, executed or not."""
    tree = ast.parse((ROOT / "module_utils/pgprefect/__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert pgprefect.get_db_manager is manager.get_db_manager
    with pytest.raises(AttributeError, match="nothing"):
        _ = pgprefect.nothing
