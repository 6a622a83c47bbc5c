"""What the page over Prometheus takes from others is what its lock names."""

from __future__ import annotations

import json

from tests.support.project import ROOT


def test_the_copies_are_those_of_the_lock() -> None:
    lock = json.loads((ROOT / "requirements/page/package-lock.json").read_text())["packages"]
    vendor = ROOT / "roles/prefect_prometheus/files/page/vendor"
    assert f"uPlot (v{lock['node_modules/uplot']['version']})" in (vendor / "uPlot.iife.min.js").read_text()[:100]
    assert sorted(path.name for path in vendor.iterdir()) == ["uPlot.iife.min.js", "uPlot.min.css"]
