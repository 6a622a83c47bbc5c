"""The order of site.yml."""

from __future__ import annotations

import re

import yaml

from tests.support.project import ROOT

SITE = [play["ansible.builtin.import_playbook"] for play in yaml.safe_load((ROOT / "site.yml").read_text())]


def test_the_readme_has_it() -> None:
    table = (ROOT / "README.md").read_text().partition("| `site.yml` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\S+)` \|", table, re.MULTILINE) == SITE


def test_redis_is_stopped_when_no_server_uses_it_any_more() -> None:
    first, last = SITE.index("playbooks/redis.yml"), SITE.index("playbooks/former_redis.yml")
    assert first < SITE.index("playbooks/server.yml") < last
