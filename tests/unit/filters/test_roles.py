"""The roles' defaults."""

from __future__ import annotations

import re

from filter_plugins.roles import role_defaults
from tests.support.project import ROOT


def test_defaults_of_the_roles() -> None:
    defaults = role_defaults(str(ROOT / "roles"))
    assert defaults["prefect_backup_kinds"] == ["full"] and defaults["pgbackrest_enabled"] is False
    wiring = "".join(path.read_text() for path in (ROOT / "playbooks/group_vars/all").glob("*.yml"))
    read = set(re.findall(r"__site_defaults\.(\w+)", wiring))
    # A template in a default would reach the roles as text.
    assert read and not [name for name in read if "{{" in str(defaults[name])]
