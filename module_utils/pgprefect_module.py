"""What the modules of library/ share: one way to log in, and one way to fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgprefect.core.connection import Login, connect
from ansible.module_utils.pgprefect.core.errors import PgprefectError, ProblemError
from ansible.module_utils.pgprefect.core.problems import format_problems


@contextlib.contextmanager
def failures(module: AnsibleModule) -> Iterator[None]:
    """Let the module fail with the message and the problems of an error of pgprefect."""
    try:
        yield
    except ProblemError as error:
        problems = [problem.as_dict() for problem in error.problems]
        module.fail_json(msg=format_problems(error.problems), problems=problems)
    except PgprefectError as error:
        module.fail_json(msg=str(error), problems=[])


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
