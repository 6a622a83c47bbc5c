"""Environment variables of the user's: which are refused, by name and with the way out, and who gets the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from filter_plugins.tenants import pool_environments, prefect_tenants, tenant_environments, tenant_views
from plugin_utils.inventory_checks.environment import REPLACES, own_variables
from plugin_utils.inventory_checks.specification import read
from plugin_utils.inventory_checks.tenants import check_environments
from plugin_utils.inventory_checks.values import check_value
from tests.support.inventories import run
from tests.support.project import ROOT

SPECIFICATION = read(ROOT)
DEPLOYMENT = {"name": "a", "flow": "a", "entrypoint": "a.py:a", "work_pool": "default"}


def refusals(name: str, value: Any) -> list[str]:
    return list(check_value(name, value, SPECIFICATION.options[name]))


def pool(**environment: Any) -> list[str]:
    pools = [{"name": "default"}, {"name": "gpu", "environment": environment}]
    return refusals("prefect_tenants", [{"name": "prefect", "work_pools": pools}])


OWN = [
    ("PGHOST", "the site sets this variable itself: set database_host instead."),
    ("PGPASSWORD", "the site sets this variable itself: set prefect_secrets instead."),
    ("NO_PROXY", "the site sets this variable itself: set prefect_no_proxy instead."),
    ("no_proxy", "the site sets this variable itself: set prefect_no_proxy instead."),
    ("PREFECT_UI_URL", "the site sets this variable itself: set ui_url of the tenant instead."),
    ("PREFECT_API_URL", "the site sets this variable itself: set api_url of the tenant instead."),
    ("PREFECT_API_SSL_CERT_FILE", "the site sets this variable itself: set prefect_api_ca_file instead."),
    # Prefect reads its settings' names in any case, has former names for some, and reads groups of them as JSON.
    ("prefect_api_url", "the site sets this variable itself: set api_url of the tenant instead."),
    ("PREFECT_RUNNER_HEARTBEAT_FREQUENCY", "it counts instead of PREFECT_FLOWS_HEARTBEAT_FREQUENCY, which the site"),
    ("PREFECT_CLIENT", "it sets PREFECT_CLIENT_RETRY_EXTRA_CODES and others, which the site sets itself: name each"),
    (
        "PREFECT_API_KEY",
        "it counts instead of PREFECT_API_AUTH_STRING, which the site sets itself: set prefect_secrets",
    ),
    ("PGSERVICE", "it counts instead of PGHOST, which the site sets itself: set database_host instead."),
]


@pytest.mark.parametrize(("name", "reason"), OWN)
def test_what_the_site_sets_is_refused_with_the_way_out(name: str, reason: str) -> None:
    (mistake,) = pool(**{name: "s3cret"})
    assert mistake.startswith(f"prefect_tenants[0].work_pools[1].environment.{name}: {reason}"), mistake


def test_each_variable_that_a_role_sets_is_refused_where_it_counts() -> None:
    for role in ("prefect_server", "prefect_worker"):
        own = own_variables(role)
        assert len(own) > 20
        for name in own:
            assert refusals(f"{role}_environment", {name: "x"}), name
            assert refusals("prefect_tenants", [{"name": "a", "environment": {name: "x"}}]), name
    assert set(REPLACES.values()) <= own_variables("prefect_server").keys() | own_variables("prefect_worker").keys()
    # A server reads no variable of libpq's.
    assert refusals("prefect_server_environment", {"PGHOST": "x"}) == []


GOOD = {
    "HTTPS_PROXY": "http://user:p%40ss@proxy.example.com:3128",
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "TZ": "Europe/Berlin",
    "OMP_NUM_THREADS": 4,
    "EMPTY": "",
    "QUOTED": "p@ss/w#d%:'\" $HOME `id` \\ & ä",
}
WRONG = [
    ({"1ST": "x"}, ".1ST: this is no name of an environment variable, which must be a text of letters"),
    ({"A-B": "x"}, ".A-B: this is no name"),
    ({"A\nLD_PRELOAD": "x"}, "['A\\nLD_PRELOAD']: this is no name"),
    ({False: "x"}, ".False: this is no name"),
    ({"A": "b\nLD_PRELOAD=x"}, ".A must be a text or a whole number (it has a control character, '\\n')"),
    ({"A": "\u00a0"}, ".A must be a text or a whole number (it has a line break or another character"),
    ({"A": ["x"]}, ".A must be a text or a whole number (it is no text)"),
    ({"A": None}, ".A must be a text or a whole number (it is no text): correct it in the inventory, or remove it"),
    # YAML reads `no`, and 1.10 as 1.1.
    ({"A": False}, ".A must be a text or a whole number (put it in quotes)"),
    ({"A": 1.1}, ".A must be a text or a whole number (put it in quotes)"),
    ({"A": "x" * 100_001}, ".A must be a text or a whole number (it has more than 100000 bytes)"),
    ({"TZ": "Europe/Berln"}, ".TZ is 'Europe/Berln', but it must be a time zone's name, as Europe/Berlin"),
    ({"PREFECT_LOGGING_LEVEL": "LOUD"}, ".PREFECT_LOGGING_LEVEL is 'LOUD', but it must be one of DEBUG, INFO"),
]


def test_names_and_values_that_no_unit_could_have() -> None:
    assert pool(**GOOD) == []
    for environment, fault in WRONG:
        (mistake,) = refusals("prefect_worker_environment", environment)
        assert mistake.startswith(f"prefect_worker_environment{fault}"), mistake
    # A value may be a secret, wherever it stands.
    assert "s3cret" not in str(pool(A=["s3cret"])) + str(refusals("prefect_server_environment", "s3cret"))
    assert "s3cret" not in str(refusals("prefect_tenants", {"environment": {"A": "s3cret"}}))


def test_a_deployment_says_its_environment_once() -> None:
    both = {**DEPLOYMENT, "environment": {"A": "1"}, "job_variables": {"env": {"B": "2"}}}
    (mistake,) = check_environments([{"name": "prefect", "deployments": [DEPLOYMENT, both]}])
    assert mistake == (
        "prefect_tenants[0].deployments[1].job_variables.env: it is what prefect_tenants[0].deployments[1].environment "
        "sets: keep one of the two."
    )


def test_job_variables_and_templates_set_nothing_of_the_site_either() -> None:
    given = {**DEPLOYMENT, "job_variables": {"env": {"PGHOST": "s3cret", "LEVEL": None, "MODE": "fast"}}}
    template = {"variables": {"properties": {"env": {"default": {"PREFECT_API_URL": None}}}}}
    pools = [{"name": "plain"}, {"name": "default", "base_job_template": template}]
    mistakes = list(check_environments([{"name": "prefect", "deployments": [given], "work_pools": pools}]))
    paths = [mistake.partition(": the site sets this variable itself")[0] for mistake in mistakes]
    assert paths == [
        "prefect_tenants[0].deployments[0].job_variables.env.PGHOST",
        "prefect_tenants[0].work_pools[1].base_job_template.variables.properties.env.default.PREFECT_API_URL",
    ]


def test_the_check_of_the_inventory_refuses_before_any_host_is_reached(tmp_path: Path) -> None:
    groups = {"postgresql": "a", "prefect_server": "a", "prefect_worker": "a"}
    both = {**DEPLOYMENT, "environment": {"PGHOST": "s3cret"}, "job_variables": {"env": {}}}
    site: dict[str, Any] = {group: {"hosts": {host: {}}} for group, host in groups.items()}
    tenants = [{"name": "prefect", "environment": {"NO_PROXY": "{{ vault }}"}, "deployments": [both]}]
    given = json.dumps({"prefect_tenants": tenants, "vault": "s3cret"})
    status, said = run(tmp_path, site, "--extra-vars", given)
    assert status != 0 and "nothing was changed" in said and "s3cret" not in said, said
    assert "prefect_tenants[0].environment.NO_PROXY: the site sets this variable itself: set prefect_no_proxy" in said
    assert "prefect_tenants[0].deployments[0].environment.PGHOST: the site sets this variable itself" in said


def test_the_nearest_one_counts_and_no_secret_is_where_everybody_looks() -> None:
    tenants: list[dict[str, Any]] = [
        {
            "name": "a",
            "environment": {"LEVEL": "tenant", "TZ": "UTC"},
            "work_pools": [{"name": "cpu"}, {"name": "gpu", "environment": {"LEVEL": "pool"}}],
            "deployments": [DEPLOYMENT, {**DEPLOYMENT, "name": "b", "environment": {"LEVEL": 7}}],
        },
        {"name": "b"},
    ]
    assert tenant_environments(tenants) == {"a": {"LEVEL": "tenant", "TZ": "UTC"}, "b": {}}
    assert pool_environments(tenants) == {
        "a": {"cpu": {"LEVEL": "tenant", "TZ": "UTC"}, "gpu": {"LEVEL": "pool", "TZ": "UTC"}},
        "b": {"default": {}},
    }
    resolved = prefect_tenants(tenants)
    assert [one.get("job_variables") for one in resolved[0]["deployments"]] == [None, {"env": {"LEVEL": "7"}}]
    assert "environment" not in json.dumps([resolved, tenant_views(resolved)])
