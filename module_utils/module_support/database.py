"""Support for modules that log in to a database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgprefect.core.connection import Login, connect


@contextlib.contextmanager
def connection(module: AnsibleModule) -> Iterator[Any]:
    """Open a connection to the module's database with its login. Raises ConnectionFailed."""
    with contextlib.closing(connect(Login.from_arguments(module.params), module.params["database"])) as opened:
        yield opened


def database_changes(changes: Sequence[Any]) -> dict[str, Any]:
    """Return the result of a module that changes a database: of each change the statement, and what it replaces."""
    return {
        "changed": bool(changes),
        "statements": [str(change.statement) for change in changes],
        "diff": {
            "before": "".join(f"{change.before}\n" for change in changes if change.before),
            "after": "".join(f"{change.after}\n" for change in changes if change.after),
        },
    }
