"""prefect_blocks against a real server."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Result = dict[str, Any]
Apply = Callable[..., Result]
SECRET = "s3cret-öl"


@pytest.fixture
def apply(run_module: Callable[..., Result], api_arguments: dict[str, str]) -> Apply:
    def run(*blocks: dict[str, Any], **arguments: Any) -> Result:
        result = run_module("prefect_blocks", **{**api_arguments, "blocks": list(blocks), **arguments})
        assert SECRET not in json.dumps(result, ensure_ascii=False)
        return result

    return run


@pytest.fixture
def name() -> str:
    return f"block-{uuid.uuid4()}"


def content(api: Callable[..., Any], slug: str, name: str) -> dict[str, Any]:
    path = f"/block_types/slug/{slug}/block_documents/name/{name}?include_secrets=true"
    found: dict[str, Any] = api("GET", path)
    return found


def test_check_mode_foretells_and_a_second_run_changes_nothing(
    apply: Apply, api: Callable[..., Any], name: str
) -> None:
    declared = {"name": name, "type": "slack-webhook", "data": {"notify_type": "info"}, "secrets": {"url": SECRET}}
    full = f"slack-webhook/{name}"
    foretold = apply(declared, check=True)
    assert foretold["actions"] == [f"create block {full}"]
    assert foretold["diff"]["after"] == {f"block {full}": {"notify_type": "info", "url": "(secret)"}}
    done = apply(declared)
    assert done["actions"] == foretold["actions"] and done["diff"] == foretold["diff"]
    stored = content(api, "slack-webhook", name)
    assert stored["data"] == {"notify_type": "info", "url": SECRET}
    again = apply(declared)
    assert not again["changed"] and again["ids"] == {full: stored["id"]}
    assert content(api, "slack-webhook", name)["updated"] == stored["updated"]


def test_a_secret_is_compared_and_never_shown(apply: Apply, api: Callable[..., Any], name: str) -> None:
    apply({"name": name, "type": "secret", "secrets": {"value": "s3cret-before"}})
    changed = apply({"name": name, "type": "secret", "secrets": {"value": SECRET}})
    assert changed["actions"] == [f"update block secret/{name}: value"]
    assert changed["diff"] == {
        "before": {f"block secret/{name}": {"value": "(secret), before"}},
        "after": {f"block secret/{name}": {"value": "(secret)"}},
    }
    assert "s3cret-before" not in json.dumps(changed)
    assert content(api, "secret", name)["data"] == {"value": SECRET}


def test_a_field_that_is_not_declared_any_more_goes(apply: Apply, api: Callable[..., Any], name: str) -> None:
    secrets = {"url": SECRET}
    apply({"name": name, "type": "slack-webhook", "data": {"notify_type": "info"}, "secrets": secrets})
    changed = apply({"name": name, "type": "slack-webhook", "secrets": secrets})
    assert changed["diff"] == {
        "before": {f"block slack-webhook/{name}": {"notify_type": "info"}},
        "after": {f"block slack-webhook/{name}": {}},
    }
    assert content(api, "slack-webhook", name)["data"] == {"url": SECRET}
    assert not apply({"name": name, "type": "slack-webhook", "secrets": secrets})["changed"]


def test_the_masked_text_is_a_secret_like_any_other(apply: Apply, api: Callable[..., Any], name: str) -> None:
    """Who pastes what the UI shows is told by the next run that it is not what is there."""
    apply({"name": name, "type": "secret", "secrets": {"value": SECRET}})
    masked = {"name": name, "type": "secret", "secrets": {"value": "********"}}
    result = apply(masked)
    assert result["failed"] and "is what Prefect shows in place of a secret" in result["msg"]
    assert content(api, "secret", name)["data"] == {"value": SECRET}


@pytest.mark.usefixtures("prefect_environment")
def test_a_flow_reads_it(apply: Apply, virtualenv: Path, prefect_environment: dict[str, str], name: str) -> None:
    apply({"name": name, "type": "secret", "secrets": {"value": SECRET}})
    code = f"from prefect.blocks.system import Secret; print(Secret.load({name!r}).get())"
    read = subprocess.run(
        [virtualenv / "bin/python", "-c", code], env=prefect_environment, capture_output=True, text=True, check=True
    )
    assert read.stdout.strip() == SECRET


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ({"name": "Ab", "type": "secret"}, "small letters, digits and inner '-'"),
        ({"name": "ä", "type": "secret"}, "small letters, digits and inner '-'"),
        ({"name": "x", "type": "a/b"}, "small letters, digits and inner '-'"),
        ({"name": "x", "type": "no-such-type"}, "the server knows no blocks of the type no-such-type"),
        ({"name": "x", "type": "secret"}, "the field value is missing"),
        ({"name": "x", "type": "secret", "data": {"value": SECRET}}, "value is a secret of the type secret"),
        ({"name": "x", "type": "secret", "secrets": {"value": SECRET, "priorty": SECRET}}, "priorty is no field"),
        ({"name": "x", "type": "secret", "data": {"a": {"$ref": 1}}}, "another block inside"),
        ({"name": "x", "type": "secret", "data": {"value": 1}, "secrets": {"value": 1}}, "is in data and in secrets"),
        ({"name": "x", "type": "secret", "secret": {}}, "secret"),
    ],
)
def test_nonsense_is_refused(apply: Apply, block: dict[str, Any], complaint: str) -> None:
    result = apply(block)
    assert result["failed"] and complaint in result["msg"], result["msg"]


def test_a_type_whose_schema_changed(apply: Apply, api: Callable[..., Any], name: str) -> None:
    """A block keeps the schema that it was made with until its content changes."""
    kind = api("POST", "/block_types/", {"name": name, "slug": name})["id"]

    def register(*fields: str) -> str:
        properties = {one: {"title": one, "type": "string"} for one in fields}
        schema = {"title": name, "type": "object", "properties": properties, "block_schema_references": {}}
        schema |= {"secret_fields": ["token"], "block_type_slug": name}
        made = api("POST", "/block_schemas/", {"fields": schema, "block_type_id": kind, "capabilities": []})
        return str(made["id"])

    first = register("host", "token")
    declared = {"name": "b", "type": name, "data": {"host": "a"}, "secrets": {"token": SECRET}}
    assert apply(declared)["changed"]
    second = register("host", "token", "port")
    assert not apply(declared)["changed"]
    assert content(api, name, "b")["block_schema_id"] == first
    assert apply({**declared, "data": {"host": "a", "port": "1"}})["actions"] == [f"update block {name}/b: port"]
    assert content(api, name, "b")["block_schema_id"] == second


def test_without_an_api_only_check_mode_goes_on(apply: Apply, name: str) -> None:
    nowhere = {"api_url": "http://127.0.0.1:9/api"}
    declared = {"name": name, "type": "slack-webhook", "data": {"url": "pasted"}, "secrets": {"x": SECRET}}
    assert apply(declared, **nowhere)["failed"]
    foretold = apply(declared, check=True, **nowhere)
    assert foretold["actions"] == [f"create block slack-webhook/{name}"]
    assert "pasted" not in str(foretold["diff"])
