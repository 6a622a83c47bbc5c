"""Support for modules that keep objects of a Prefect server as declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.pgprefect.core.http import API_ARGUMENTS, PrefectApi
from ansible.module_utils.pgprefect.core.options import from_options, options_of
from ansible.module_utils.pgprefect.objects.changes import Outcome
from ansible.module_utils.pgprefect.objects.record import remember

# The options that all of them share.
OBJECT_ARGUMENTS: dict[str, Any] = {**API_ARGUMENTS, "record": {"type": "path"}}


def declared_arguments(name: str, declared: type[Any]) -> dict[str, Any]:
    """Return the argument spec of a module whose option ``name`` is a list of a dataclass."""
    return {
        **OBJECT_ARGUMENTS,
        name: {"type": "list", "elements": "dict", "required": True, "options": options_of(declared)},
    }


def apply_declared(
    module: AnsibleModule, name: str, declared: type[Any], apply: Callable[..., Any], **arguments: Any
) -> None:
    """Bring a server to what the module's option ``name`` declares, and end the module."""
    listed = [from_options(declared, one) for one in module.params[name]]
    # Ansible returns a module's arguments with its result; what was declared may be a secret in the wrong place.
    module.params[name] = [one.name for one in listed]
    with failures(module) as done:
        outcome = apply(PrefectApi.from_arguments(module.params), listed, module.check_mode, done, **arguments)
        finish(module, outcome, name.replace("_", " "))


def finish(module: AnsibleModule, outcome: Outcome, things: str) -> None:
    """End a module with what it made, and remember what that is."""
    if outcome.unreachable:
        module.warn(f"{outcome.unreachable} Check mode takes it for a server without {things}.")
    if module.params["record"]:
        remember(Path(module.params["record"]), outcome.made)
    module.exit_json(**outcome.as_dict())
