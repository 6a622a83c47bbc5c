"""The one way in which the modules of library/ fail."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.pgprefect.core.errors import PgprefectError, ProblemError
from ansible.module_utils.pgprefect.core.problems import format_problems


@contextlib.contextmanager
def failures(module: AnsibleModule) -> Iterator[list[str]]:
    """Let the module fail with the message and the problems of an error of pgprefect.

    The list is for what the module has done, and a module that fails after its first change says it: as ``changes``,
    with any kind of error.
    """
    done: list[str] = []
    try:
        yield done
    except ProblemError as error:
        problems = [problem.as_dict() for problem in error.problems]
        _fail(module, format_problems(error.problems), done, problems=problems)
    except PgprefectError as error:
        _fail(module, str(error), done, problems=[])
    except Exception as error:
        if not done:
            raise
        _fail(module, f"{type(error).__name__}: {error}", done, problems=[], exception=traceback.format_exc())


def _fail(module: AnsibleModule, message: str, done: list[str], **result: Any) -> None:
    if done:
        message = f"{message} Before that, {len(done)} of the changes were made, the last one: {done[-1]}."
    module.fail_json(msg=message, changed=bool(done), changes=done, **result)
