"""Secrets go to those that they are for, and check mode leaves none on the controller."""

from __future__ import annotations

from pathlib import Path

from filter_plugins.secrets import secret_files, secrets_of, tenant_passwords, tenant_secrets


def test_check_mode_keeps_no_new_secret(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert secret_files(["old", "new"], str(tmp_path)) == [old, new]
    assert secret_files(["old", "new"], str(tmp_path), check_mode=True) == [old, "/dev/null"]


def test_secrets_go_to_those_that_they_are_for() -> None:
    secrets = {"app": "1", "prefect_api": "2", "research_api": "3"}
    tenants = [{"name": "prefect"}, {"name": "research"}]
    assert tenant_secrets(tenants, "api") == ["prefect_api", "research_api"]
    assert tenant_passwords(secrets, tenants, "api") == {"prefect": "2", "research": "3"}
    assert secrets_of(secrets, ["app"]) == {"app": "1"} and secrets_of(secrets, []) == {}
