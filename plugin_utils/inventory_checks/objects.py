"""Forms of variables, limits, blocks and automations, and the blocks that the site makes by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgprefect.objects.automation_schema import action_faults, trigger_faults
from pgprefect.objects.blocks import BLOCK_NAME
from pgprefect.objects.concurrency_limits import DEPLOYMENTS
from pgprefect.objects.secret_blocks import REGISTRY, SECRET
from pgprefect.objects.variables import VARIABLE_NAME, value_fault

from .forms import PREFECT_NAME, Form, matching, refusal, refuse_control_characters


def _value(value: Any) -> None:
    if fault := value_fault(value):
        raise ValueError(fault)


def _limit(value: Any) -> None:
    PREFECT_NAME.check(value)
    if str(value).startswith(DEPLOYMENTS):
        raise ValueError("the server makes limits of deployments: set concurrency_limit of the deployment")


def _rate(value: Any) -> None:
    if isinstance(value, bool) or not str(value).isascii() or not 0 <= float(value) <= 1_000_000:
        raise ValueError


@dataclass(frozen=True)
class Part(Form):
    """A trigger or an action of an automation, whose faults are found by the code that modules use too."""

    find: Callable[[str, Any], Iterator[str]] = trigger_faults

    def faults(self, path: str, value: Any) -> Iterator[str]:
        """Yield each fault with its path."""
        try:
            refuse_control_characters(value, lines=True)
        except ValueError as error:
            yield refusal(path, value, self.allowed, str(error))
            return
        yield from (f"{fault}: correct it in the inventory." for fault in self.find(path, value))


VARIABLE = matching(VARIABLE_NAME.pattern, "a name of small letters, digits, '_' and inner '-'")
VALUE = Form("what JSON can have, of at most 5000 bytes", _value, null=True, lines=True)
LIMIT = Form("a name of at most 200 characters, without / % & > <, or tag:NAME", _limit)
RATE = Form("a number from 0 on", _rate)
SLUG = matching(BLOCK_NAME.pattern, "a name of small letters, digits and inner '-'")
TRIGGER = Part("a mapping of a trigger's keys")
ACTION = Part("a mapping of an action's keys", find=action_faults)


def check_blocks(tenants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the blocks of declared tenants that the site makes itself, of their credentials and registries."""
    for number, tenant in enumerate(tenants):
        own = {(SECRET, f"git-{one['name']}"): "git_credentials" for one in tenant.get("git_credentials", ())}
        own |= {
            (REGISTRY, f"registry-{one['name']}"): "docker_registries" for one in tenant.get("docker_registries", ())
        }
        for index, block in enumerate(tenant.get("blocks", ())):
            if key := own.get((block["type"], block["name"])):
                yield (
                    f"prefect_tenants[{number}].blocks[{index}].name is {block['name']!r}, the block of one of the "
                    f"tenant's {key}: choose another name."
                )
