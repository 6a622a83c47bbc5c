"""Secrets of the user's own: each has the name of something that the site has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .suggestions import did_you_mean

_REPOSITORY = "postgresql_pitr"
_LEAST = 16  # characters of a passphrase, on which pgBackRest insists


def check_secrets(
    secrets: Mapping[str, Any], tenants: Sequence[Mapping[str, Any]], logins: Sequence[str]
) -> Iterator[str]:
    """Yield the secrets that nothing reads, and those that their reader refuses. Never shows a value.

    ``logins`` are roles besides the tenants' and the monitor's.
    Without tenants nothing is known of the names.
    """
    if not tenants:
        return
    apis = [f"{tenant['name']}_{part}" for tenant in tenants for part in ("api", "redis")]
    roles = [tenant[key] for tenant in tenants for key in ("server", "migrator", "relay") if tenant.get(key)]
    known = [*logins, "prefect_monitor", *roles, *apis, _REPOSITORY]
    for name, value in secrets.items():
        path = f"prefect_secrets.{name}"
        if name not in known:
            yield f"{path}: nothing reads this secret" + (did_you_mean(name, known) or f". Known: {', '.join(known)}.")
        elif name in apis and not re.fullmatch("[ -~]+", str(value)):
            yield (
                f"{path} must be printable ASCII characters, because Prefect refuses or misreads others: "
                "correct it in the inventory, or remove it to have one made."
            )
        elif name == _REPOSITORY and not re.fullmatch(f"[!-~]{{{_LEAST},}}", str(value)):
            yield f"{path} must be at least {_LEAST} ASCII characters without blanks: correct it in the inventory."
