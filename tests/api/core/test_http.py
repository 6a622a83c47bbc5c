"""The client of Prefect's API against a real server, which asks for a password and for CSRF tokens."""

from __future__ import annotations

import pytest
from pgprefect.backup import drill
from pgprefect.backup.sets import BackupError
from pgprefect.core.http import PrefectApi, is_ready


def test_requests_with_the_password_and_the_csrf_token(api_arguments: dict[str, str]) -> None:
    api = PrefectApi(api_arguments["api_url"], api_arguments["api_auth_string"])
    made = api.call("POST", "/flows/", {"name": "http"})
    assert api.filter("/flows/filter", flows={"name": {"any_": ["http"]}})[0]["id"] == made["id"]
    assert api.call("DELETE", f"/flows/{made['id']}") is None
    assert is_ready(f"{api.url}/ready")


def test_a_drill_lists_the_flows_of_its_server(api_arguments: dict[str, str]) -> None:
    url, auth_string = api_arguments["api_url"], api_arguments["api_auth_string"]
    count = PrefectApi(url, auth_string).call("POST", "/flows/count", {})
    assert drill._list_flows(url, auth_string) == min(count, 200)
    with pytest.raises(BackupError, match=r"does not list its flows: .*HTTP 401: Unauthorized\.$") as failed:
        drill._list_flows(url, "drill:guess")
    assert failed.value.problem.code == "drill_failed"
