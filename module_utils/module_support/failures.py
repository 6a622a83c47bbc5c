"""The one way in which the modules of library/ fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ansible.module_utils.basic import AnsibleModule
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
