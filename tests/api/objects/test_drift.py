"""``pgprefect objects``: what differs from a declaration, and a declaration of what is there."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from pgprefect.cli.main import main
from pgprefect.core.http import PrefectApi
from pgprefect.objects.export import export
from pgprefect.objects.yaml_text import to_yaml

from filter_plugins.objects import declaration
from filter_plugins.tenants import prefect_blocks, prefect_tenants
from plugin_utils.inventory_checks.specification import read
from plugin_utils.inventory_checks.values import check_value
from tests.support.prefect_server import running_server
from tests.support.project import ROOT, VIRTUALENV

Result = dict[str, Any]
Api = Callable[..., Any]
FLOWS = str(ROOT / "flows")
HERE = [{"prefect.deployments.steps.set_working_directory": {"directory": FLOWS}}]
KINDS = ("variables", "concurrency_limits", "blocks", "work_pools", "deployments", "automations")
WORKER_KEYS = ("workers", "min_workers")
EVERY_EVENT = "trigger.expect must be a list of at least one event: without it the trigger reacts to every event"
RISK = "check_risk_limits.py:check_risk_limits"


class Loader(yaml.SafeLoader):
    """Reads Ansible's tag for texts that are no templates."""


Loader.add_constructor("!unsafe", lambda _, node: node.value)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server on which somebody clicked everything together."""
    with running_server(tmp_path_factory.mktemp("rich"), {}) as api:
        fill(api)
        yield api


@pytest.fixture(scope="module")
def text(rich: Api) -> str:
    """What is exported of the server, with a value for each of its secrets."""
    return text_of(rich)


@pytest.fixture(scope="module")
def tenant(text: str) -> dict[str, Any]:
    return tenant_of(text)


@pytest.fixture(scope="module")
def copy(
    tenant: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, run_module: Callable[..., Result]
) -> Iterator[Api]:
    """A server to which the export was applied."""
    with running_server(tmp_path_factory.mktemp("copy"), {}) as api:
        assert apply(run_module, api, tenant)
        yield api


def fill(api: Api) -> None:
    values = {"text": "Zwölf: {{ x }}", "none": None, "list": [1, True, "1"], "deep": {"a": {"b": 1.5}}}
    for name, value in values.items():
        api("POST", "/variables/", {"name": name, "value": value, "tags": ["b", "a"] if name == "text" else []})
    api("POST", "/v2/concurrency_limits/", {"name": "Kurse und mehr", "limit": 3})
    api("POST", "/v2/concurrency_limits/", {"name": "tag:db", "limit": 0, "active": False})
    api("POST", "/v2/concurrency_limits/", {"name": "rate", "limit": 9, "slot_decay_per_second": 0.25})
    block = fill_blocks(api)
    pool = api("POST", "/work_pools/", {"name": "Pool eins", "type": "process", "concurrency_limit": 4})
    for queue, priority in (("late", 3), ("first", 1)):
        api("POST", f"/work_pools/{quote(pool['name'])}/queues", {"name": queue, "priority": priority})
    api("PATCH", f"/work_pools/{quote(pool['name'])}/queues/late", {"concurrency_limit": 2, "is_paused": True})
    properties = {"command": {"type": "string", "default": "echo {{ x }}"}}
    variables = {"type": "object", "properties": properties}
    template = {"job_configuration": {"command": "{{ command }}"}, "variables": variables}
    api("POST", "/work_pools/", {"name": "own", "type": "process", "base_job_template": template, "is_paused": True})
    flow = api("POST", "/flows/", {"name": "check-risk-limits"})["id"]
    common = {"flow_id": flow, "entrypoint": RISK, "work_pool_name": "Pool eins", "pull_steps": HERE}
    schedules = [
        {"slug": "nightly", "schedule": {"cron": "5 2 * * *", "timezone": "Europe/Berlin"}, "active": False},
        {"slug": "often", "schedule": {"interval": 900}, "parameters": {"portfolio": "x"}},
        {"slug": "rule", "schedule": {"rrule": "FREQ=DAILY;BYHOUR=6", "timezone": "UTC"}},
    ]
    fields = {"parameters": {"portfolio": "ä"}, "tags": ["z", "on_lost:reschedule"], "description": "Täglich\nzweimal"}
    deployment = api(
        "POST",
        "/deployments/",
        {
            **common,
            **fields,
            "name": "daily",
            "schedules": schedules,
            "work_queue_name": "late",
            "concurrency_limit": 2,
        },
    )
    api(
        "POST",
        "/deployments/",
        {**common, "name": "paused", "description": "x", "paused": True, "enforce_parameter_schema": False},
    )
    api("POST", "/deployments/", {"flow_id": flow, "name": "served", "entrypoint": RISK, "path": "/srv"})
    fill_automations(api, deployment["id"], pool["id"], block)


def fill_blocks(api: Api) -> str:
    """Make blocks, and return the identifier of one that is notified."""
    made = {}
    for slug, name, data in (
        ("slack-webhook", "alerts", {"url": "https://hooks.example.com/s3cret", "notify_type": "info"}),
        ("secret", "token", {"value": {"nested": "s3cret"}}),
    ):
        kind = api("GET", f"/block_types/slug/{slug}")["id"]
        filters = {"block_schemas": {"block_type_id": {"any_": [kind]}}}
        schema = api("POST", "/block_schemas/filter", filters)[0]["id"]
        body = {"name": name, "data": data, "block_type_id": kind, "block_schema_id": schema}
        made[slug] = api("POST", "/block_documents/", body)["id"]
    return str(made["slack-webhook"])


def fill_automations(api: Api, deployment: str, pool: str, block: str) -> None:
    event = {"posture": "Reactive", "expect": ["b", "a"], "match": {"x": ["y", "ä"]}, "within": 5}
    silence = {"posture": "Proactive", "expect": ["heartbeat"]}
    compound = {"type": "compound", "require": 1, "within": None, "triggers": [{"type": "event", **event}, silence]}
    run = {"type": "run-deployment", "deployment_id": deployment, "parameters": {"id": "{{ event.id }}"}}
    notify = {"type": "send-notification", "block_document_id": block, "body": "{{ flow_run.name }}"}
    first = {"name": "eins", "trigger": event, "actions": [run, notify], "tags": ["t"], "description": "D"}
    made = api("POST", "/automations/", first)["id"]
    pausing = [{"type": "pause-automation", "automation_id": made}, {"type": "pause-work-pool", "work_pool_id": pool}]
    second = {"name": "zwei", "trigger": compound, "actions": pausing, "enabled": False, "actions_on_resolve": [run]}
    api("POST", "/automations/", second)
    for _ in range(2):
        api("POST", "/automations/", {"name": "doppelt", "trigger": event, "actions": [{"type": "do-nothing"}]})
    everything = {"name": "alles", "trigger": {"posture": "Reactive"}, "actions": [{"type": "do-nothing"}]}
    api("POST", "/automations/", everything)


@pytest.fixture
def pgprefect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Run the command about a server's objects: its exit status and what it prints."""

    def run(api: Api, *arguments: str, declared: dict[str, Any] | None = None, stdin: str = "") -> tuple[int, str]:
        client: PrefectApi = api.__self__  # type: ignore[attr-defined]
        site = {"login": {}, "database": "x", "tenants": [{"name": "prefect", "schema": "prefect"}]}
        (tmp_path / "pgprefect.json").write_text(json.dumps(site))
        (tmp_path / "prefect.env").write_text(f"PREFECT_API_URL={client.url}\n")
        if declared is not None:
            (tmp_path / "prefect-objects.json").write_text(json.dumps(declared))
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = main(["--config", str(tmp_path / "pgprefect.json"), "objects", *arguments])
        said = capsys.readouterr()
        return status, said.out or said.err

    return run


def text_of(api: Api) -> str:
    """Return the YAML of a server's objects."""
    found = export(api.__self__)  # type: ignore[attr-defined]
    return to_yaml(found.tenant)


def tenant_of(text: str) -> dict[str, Any]:
    """Return what YAML declares, with a value for each secret."""
    return {"name": "prefect", **yaml.load(re.sub(r"\{\{ vault_\w+ \}\}", "s3cret-now", text), Loader)}


def apply(run_module: Callable[..., Result], api: Api, tenant: dict[str, Any], **arguments: Any) -> list[str]:
    """Apply a tenant as the role does, and return what was done."""
    client: PrefectApi = api.__self__  # type: ignore[attr-defined]
    whole = prefect_tenants([tenant])[0]
    given = declaration(whole, prefect_blocks([tenant])["prefect"], WORKER_KEYS, FLOWS, True)
    own = {
        "deployments": {"flows_directory": FLOWS, "virtualenv": str(VIRTUALENV)},
        "automations": {"planned": whole["planned_objects"]},
    }
    actions: list[str] = []
    for kind in KINDS:
        option = "pools" if kind == "work_pools" else kind
        values = {"api_url": client.url, option: given[kind], **own.get(kind, {})}
        result = run_module(f"prefect_{kind}", **values, **arguments)
        assert not result.get("failed"), result
        actions += result["actions"]
    return actions


def test_an_export_can_be_applied_and_exported_again(
    rich: Api, copy: Api, tenant: dict[str, Any], run_module: Callable[..., Result]
) -> None:
    # The inventory takes it as it is.
    assert list(check_value("prefect_tenants", [tenant], read(ROOT).options["prefect_tenants"])) == []
    assert {kind: len(tenant[kind]) for kind in KINDS} == {
        "variables": 4,
        "concurrency_limits": 3,
        "blocks": 2,
        "work_pools": 2,
        "deployments": 2,
        "automations": 2,
    }
    assert tenant_of(text_of(copy)) == tenant
    # The first run on the server itself brings the versions of the code, and the secrets.
    changed = apply(run_module, rich, tenant, check=True)
    assert [action.partition(": ")[0] for action in changed] == [
        "update block secret/token",
        "update block slack-webhook/alerts",
        "update deployment check-risk-limits/daily",
        "update deployment check-risk-limits/paused",
    ]


def test_what_cannot_be_declared_is_said(rich: Api, pgprefect: Callable[..., tuple[int, str]]) -> None:
    status, text = pgprefect(rich, "export")
    assert status == 0 and "s3cret" not in text
    assert 'url: "{{ vault_slack_webhook_alerts_url }}"' in text and '!unsafe "{{ flow_run.name }}"' in text
    assert [line for line in text.splitlines() if line.startswith("# Not")] == [
        "# Not complete: deployment check-risk-limits/served: it has no work pool.",
        "# Not complete: automation doppelt: the server has several of this name.",
        f"# Not complete: automation alles: {EVERY_EVENT}.",
    ]


def test_drift(
    copy: Api, tenant: dict[str, Any], pgprefect: Callable[..., tuple[int, str]], run_module: Callable[..., Result]
) -> None:
    assert apply(run_module, copy, tenant) == []
    secretly = declaration(prefect_tenants([tenant])[0], prefect_blocks([tenant])["prefect"], WORKER_KEYS, FLOWS, True)
    public = declaration(prefect_tenants([tenant])[0], prefect_blocks([tenant])["prefect"], WORKER_KEYS, FLOWS)
    assert "s3cret" not in json.dumps(public)
    status, said = pgprefect(copy, "diff", declared=public)
    assert status == 0 and "Objects of prefect: as declared" in said, said
    assert "The secrets of 2 blocks are not on this host" in said
    assert pgprefect(copy, "diff", "--declaration", "-", stdin=json.dumps(secretly))[0] == 0

    # By hand: something is changed, something deleted, something made.
    copy("PATCH", "/v2/concurrency_limits/rate", {"limit": 77})
    block = copy("GET", "/block_types/slug/secret/block_documents/name/token")
    changed = {"data": {"value": "s3cret-by-hand"}, "merge_existing_data": False}
    copy("PATCH", f"/block_documents/{block['id']}", changed)
    copy("DELETE", "/variables/name/list")
    deployment = copy("GET", "/deployments/name/check-risk-limits/paused")["id"]
    copy("DELETE", f"/deployments/{deployment}")
    copy("POST", "/variables/", {"name": "by_hand", "value": 1})
    copy("POST", "/work_pools/", {"name": "by hand", "type": "process"})
    copy("POST", "/work_pools/own/queues", {"name": "by hand"})

    status, said = pgprefect(copy, "diff", "--json", "--declaration", "-", stdin=json.dumps(secretly))
    found = json.loads(said)
    assert status == 1 and "s3cret" not in said and found["drift"] is True
    assert found["changed"] == [
        {"object": "concurrency limit rate", "there": {"limit": 77}, "declared": {"limit": 9}},
        {"object": "block secret/token", "there": {"value": "(secret), before"}, "declared": {"value": "(secret)"}},
    ]
    assert found["missing"] == ["variable list", "deployment check-risk-limits/paused"]
    assert found["undeclared"] == ["variable by_hand", "work pool by hand", "queue own/by hand"]
    status, said = pgprefect(copy, "diff", declared=public)
    assert status == 1 and "1 changed, 2 missing, 3 not declared" in said, said
    assert "limit: 77, declared 9" in said
    # Nothing was repaired, and what is not declared stays.
    assert apply(run_module, copy, tenant, check=True)
    assert copy("GET", "/variables/name/by_hand")["value"] == 1


def test_what_is_no_declaration(copy: Api, pgprefect: Callable[..., tuple[int, str]]) -> None:
    assert pgprefect(copy, "diff")[0] == 3
    for text, complaint in (
        ("", "The standard input is no declaration of objects"),
        ("[]", "is no declaration of objects"),
        ('{"wihtin": []}', "wihtin is unknown; there are: variables,"),
        ('{"variables": [{"name": "a"}]}', "value"),
        ('{"concurrency_limits": [{"name": "a", "limit": "many"}]}', "many"),
    ):
        status, said = pgprefect(copy, "diff", "--declaration", "-", stdin=text)
        assert status == 3 and complaint in said, said


def test_prune_deletes_what_was_made_here_and_nothing_else(
    copy: Api, pgprefect: Callable[..., tuple[int, str]], run_module: Callable[..., Result], tmp_path: Path
) -> None:
    ours = {
        "name": "prefect",
        "variables": [{"name": "ours", "value": 1}, {"name": "kept", "value": 1}, {"name": "replaced", "value": 1}],
        "concurrency_limits": [{"name": "ours", "limit": 1}],
        "blocks": [{"name": "ours", "type": "secret", "secrets": {"value": "s3cret"}}],
        "work_pools": [{"name": "ours"}],
        "deployments": [{"name": "ours", "flow": "check-risk-limits", "entrypoint": RISK, "work_pool": "ours"}],
        "automations": [
            {
                "name": "ours",
                "trigger": {"posture": "Reactive", "expect": ["x"]},
                "actions": [{"type": "run-deployment", "deployment": "check-risk-limits/ours"}],
            }
        ],
    }
    record = tmp_path / "prefect-made.json"
    copy("POST", "/variables/", {"name": "adopted", "value": 1})
    adopted = [*ours["variables"], {"name": "adopted", "value": 2}]
    assert apply(run_module, copy, {**ours, "variables": adopted}, record=str(record), check=True)
    assert not record.exists()
    assert apply(run_module, copy, {**ours, "variables": adopted}, record=str(record))
    assert record.stat().st_mode & 0o777 == 0o600 and "variable adopted" not in json.loads(record.read_text())
    # Somebody deletes one of ours, and makes another of its name.
    copy("DELETE", "/variables/name/replaced")
    copy("POST", "/variables/", {"name": "replaced", "value": "by hand"})

    kept = declaration(prefect_tenants([{"name": "prefect", "work_pools": []}])[0], [], WORKER_KEYS, FLOWS)
    kept["variables"] = [{"name": "kept", "value": 1}]
    expected = [
        "automation ours",
        "deployment check-risk-limits/ours",
        "work pool ours",
        "block secret/ours",
        "concurrency limit ours",
        "variable ours",
    ]
    # A deployment that somebody else put on our pool keeps the pool, and nothing is deleted.
    flow = copy("GET", "/flows/name/check-risk-limits")["id"]
    other = copy("POST", "/deployments/", {"flow_id": flow, "name": "others", "work_pool_name": "ours"})
    status, said = pgprefect(copy, "prune", "--yes", declared=kept)
    assert status == 2 and "work_pool_in_use" in said and "check-risk-limits/others" in said
    assert "Work pool ours is not declared any more, but deployments use it" in said
    copy("DELETE", f"/deployments/{other['id']}")

    status, said = pgprefect(copy, "prune", "--json", "--dry-run", declared=kept)
    assert (status, json.loads(said)) == (0, {"tenant": "prefect", "objects": expected, "deleted": False})
    assert pgprefect(copy, "prune", declared=kept)[0] == 1  # nobody is asked, so nothing is done
    assert pgprefect(copy, "prune", "--json", "--dry-run", declared=kept)[1] == said
    before = {kind: len(copy("POST", f"/{kind}/filter", {})) for kind in ("variables", "deployments", "work_pools")}
    status, said = pgprefect(copy, "prune", "--yes", declared=kept)
    assert status == 0 and said == f"Objects of prefect: deleted {', '.join(expected)}\n"
    after = {kind: len(copy("POST", f"/{kind}/filter", {})) for kind in before}
    assert after == {kind: count - 1 for kind, count in before.items()}
    for name, value in {"kept": 1, "adopted": 2, "replaced": "by hand"}.items():
        assert copy("GET", f"/variables/name/{name}")["value"] == value
    assert pgprefect(copy, "prune", "--yes", declared=kept) == (0, "Objects of prefect: deleted nothing\n")
    record.write_text("[]")
    status, said = pgprefect(copy, "prune", "--yes", declared=kept)
    assert status == 3 and "is no record of objects" in said
