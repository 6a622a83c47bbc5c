"""Every code of a problem is expected by some test."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.expectations import Expectations
from tests.support.project import ROOT

Tree = ast.Module
# Calls by name, with the position and the name of the argument that is a code.
Callers = dict[str, tuple[int, str]]


def trees(folder: str) -> dict[Path, Tree]:
    return {path: ast.parse(path.read_text()) for path in sorted((ROOT / folder).rglob("*.py"))}


def called(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def code_of(call: ast.Call, callers: Callers) -> ast.expr | None:
    """The expression that a call gives as the code."""
    if called(call) not in callers:
        return None
    position, name = callers[called(call)]
    if len(call.args) > position:
        return call.args[position]
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def texts(expression: ast.expr) -> list[str] | None:
    """All values that a constant, a conditional expression or an f-string of these can have."""
    if isinstance(expression, ast.Constant):
        return [str(expression.value)]
    if isinstance(expression, ast.IfExp):
        parts = [texts(expression.body), texts(expression.orelse)]
        return None if None in parts else [text for part in parts for text in part or []]
    if isinstance(expression, ast.FormattedValue):
        return texts(expression.value)
    if isinstance(expression, ast.JoinedStr):
        values = [texts(value) for value in expression.values]
        return None if None in values else ["".join(v) for v in itertools.product(*(v or [] for v in values))]
    return None


def constructors(module: Tree) -> Iterator[tuple[str, tuple[int, str]]]:
    """Classes that have a field ``code``."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            fields = [
                field.target.id
                for field in node.body
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            ]
            if "code" in fields:
                yield node.name, (fields.index("code"), "code")


def arguments(module: Tree) -> Iterator[ast.expr]:
    """Where functions use their arguments."""
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef):
            names = [argument.arg for argument in function.args.args]
            yield from (node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id in names)


def wrappers(module: Tree, callers: Callers) -> Iterator[tuple[str, tuple[int, str]]]:
    """Functions that hand one of their arguments on as the code."""
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef):
            names = [argument.arg for argument in function.args.args]
            for call in ast.walk(function):
                code = code_of(call, callers) if isinstance(call, ast.Call) else None
                if isinstance(code, ast.Name) and code.id in names:
                    yield function.name, (names.index(code.id) - ("self" in names), code.id)


def codes() -> dict[str, str]:
    """Each code with the place that makes it."""
    modules = {**trees("module_utils"), **trees("library")}
    callers: Callers = {name: where for module in modules.values() for name, where in constructors(module)}
    while True:
        found = {name: where for module in modules.values() for name, where in wrappers(module, callers)}
        if found.items() <= callers.items():
            break
        callers.update(found)
    places = {}
    for path, module in modules.items():
        handed_on = set(arguments(module))
        for call in ast.walk(module):
            code = code_of(call, callers) if isinstance(call, ast.Call) else None
            # One problem's code given to another, and a wrapper's own argument.
            if code is None or isinstance(code, ast.Attribute) or code in handed_on:
                continue
            values = texts(code)
            where = f"{path.relative_to(ROOT)}:{code.lineno}"
            assert values is not None, f"{where}: write the code as text, so that this test can read it"
            places.update(dict.fromkeys(values, where))
    return places


SAMPLE = """
TABLE = [("input", {"table"}), pytest.param("input", {"param"}, id="name")]
@pytest.mark.parametrize(("change", "codes"), TABLE)
def test_cases(change, codes):
    assert found(change) - {"ignored"} == codes
def refused(given, code):
    with pytest.raises(Error) as failed:
        act(given)
    assert failed.code == code
def test_helper():
    "docstring"
    refused("input", "argument")
    refused("input", code="keyword")
    local = {"local"}
    assert local <= found("input") and "direct" in text and "absent" not in text  # comment
"""


def test_only_what_reaches_a_comparison_is_expected() -> None:
    expected = {"table", "param", "argument", "keyword", "local", "direct"}
    assert Expectations([ast.parse(SAMPLE)]).texts == expected


def test_each_code_is_expected_by_a_test() -> None:
    found = codes()
    assert {"prefect_in_public", "right_missing", "default_right_excess", "hba_error", "revision_behind"} <= set(found)
    assert [code for code in found if not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", code)] == []
    tests = {**trees("tests"), **trees("molecule")}
    del tests[Path(__file__)]
    expected = Expectations(tests.values()).texts
    assert {code: place for code, place in found.items() if code not in expected} == {}
