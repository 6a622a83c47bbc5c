"""prefect_variables against a real server."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

Result = dict[str, Any]
Apply = Callable[..., Result]


@pytest.fixture
def apply(run_module: Callable[..., Result], api_arguments: dict[str, str]) -> Apply:
    def run(*variables: dict[str, Any], **arguments: Any) -> Result:
        return run_module("prefect_variables", **{**api_arguments, "variables": list(variables), **arguments})

    return run


@pytest.fixture
def name() -> str:
    return f"variable-{uuid.uuid4()}"


def test_check_mode_foretells_and_a_second_run_changes_nothing(
    apply: Apply, api: Callable[..., Any], name: str
) -> None:
    declared = {"name": name, "value": {"häfen": ["Kiel", 1, 1.5, None, True]}, "tags": ["b", "a"]}
    foretold = apply(declared, check=True)
    assert foretold["changed"] and foretold["ids"] == {}
    assert not [one for one in api("POST", "/variables/filter", {}) if one["name"] == name]

    done = apply(declared)
    assert done["actions"] == foretold["actions"] == [f"create variable {name}"]
    assert done["diff"] == foretold["diff"]
    stored = api("GET", f"/variables/name/{name}")
    assert stored["value"] == declared["value"] and sorted(stored["tags"]) == ["a", "b"]

    again = apply({**declared, "tags": ["a", "b"]})
    assert not again["changed"] and again["ids"] == {name: stored["id"]}
    assert api("GET", f"/variables/name/{name}") == stored


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (1, True),
        (0, False),
        ("1", 1),
        ("true", True),
        (None, ""),
        (None, False),
        ([], {}),
        ([1], [True]),
        ({"a": 0}, {"a": False}),
        ("null", None),
        ("é", "e\u0301"),
    ],
)
def test_values_that_look_alike_are_told_apart(apply: Apply, name: str, value: Any, other: Any) -> None:
    assert apply({"name": name, "value": value})["changed"]
    assert not apply({"name": name, "value": value})["changed"]
    changed = apply({"name": name, "value": other})
    assert changed["actions"] == [f"update variable {name}: value"]
    assert changed["diff"]["before"] == {f"variable {name}": {"value": value}}
    assert not apply({"name": name, "value": other})["changed"]
    assert apply({"name": name, "value": value})["changed"]


def test_the_same_number_is_no_change(apply: Apply, name: str) -> None:
    apply({"name": name, "value": 1})
    assert not apply({"name": name, "value": 1.0})["changed"]


@pytest.mark.parametrize(("text", "size"), [("x", 4998), ("ä", 2499)])
def test_the_longest_value_is_as_long_as_prefect_takes(apply: Apply, name: str, text: str, size: int) -> None:
    result = apply({"name": name, "value": text * (size + 1)})
    assert result["failed"] and "the most is 5000" in result["msg"]
    assert apply({"name": name, "value": text * size})["changed"]
    assert not apply({"name": name, "value": text * size})["changed"]


@pytest.mark.parametrize(
    ("variable", "complaint"),
    [
        ({"name": "x"}, "missing required arguments: value"),
        ({"name": "Größe", "value": 1}, "small letters"),
        ({"name": "a/b", "value": 1}, "small letters"),
        ({"name": "a\n", "value": 1}, "small letters"),
        ({"name": "", "value": 1}, "small letters"),
        ({"name": "x", "value": 1, "tag": "a"}, "tag"),
    ],
)
def test_nonsense_is_refused(apply: Apply, variable: dict[str, Any], complaint: str) -> None:
    result = apply(variable)
    assert result["failed"] and complaint in result["msg"]


def test_a_name_is_declared_once_and_others_are_left_alone(apply: Apply, api: Callable[..., Any], name: str) -> None:
    assert "declared twice" in apply({"name": name, "value": 1}, {"name": name, "value": 2})["msg"]
    api("POST", "/variables/", {"name": f"{name}-by-hand", "value": 7})
    apply({"name": name, "value": 1})
    assert api("GET", f"/variables/name/{name}-by-hand")["value"] == 7


def test_without_an_api_only_check_mode_goes_on(apply: Apply, name: str) -> None:
    nowhere = {"api_url": "http://127.0.0.1:9/api"}
    result = apply({"name": name, "value": 1}, **nowhere)
    assert result["failed"] and "No Prefect API answers" in result["msg"]
    foretold = apply({"name": name, "value": 1}, check=True, **nowhere)
    assert foretold["actions"] == [f"create variable {name}"]
    assert "a server without variables" in str(foretold["warnings"])
