"""What make test leaves out here, because the scenario default runs the same on one tenant."""

from __future__ import annotations

import pytest

AGAIN = ("test_survival.py", "test_ui.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the shared tests that take long."""
    for item in items:
        if item.path.name in AGAIN:
            item.add_marker(pytest.mark.thorough)
