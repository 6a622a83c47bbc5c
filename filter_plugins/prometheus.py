"""Filters for Prometheus and its Alertmanager: rules, targets and receivers as their files have them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = str(Path(__file__).resolve().parent.parent / "module_utils")
if FOLDER not in sys.path:
    sys.path.append(FOLDER)

from pgprefect.health.thresholds import Thresholds  # noqa: E402
from pgprefect.metrics.alerts import rules  # noqa: E402


def alert_rules(thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file of rules, made of health's thresholds."""
    return rules(Thresholds.from_arguments(thresholds))


def prometheus_targets(targets: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return exporters, which are addresses by host, as Prometheus asks them: the host is the label ``instance``."""
    return [{"targets": [address], "labels": {"instance": host}} for host, address in targets.items()]


def mail_receivers(mails: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the receivers of mail as the Alertmanager's file has them."""
    return [
        {
            "to": ", ".join(mail["to"]),
            "from": mail["from"],
            "smarthost": mail["smarthost"],
            "require_tls": bool(mail.get("require_tls", True)),
            "send_resolved": True,
            **{f"auth_{name}": mail[name] for name in ("username", "password") if mail.get(name)},
        }
        for mail in mails
    ]


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {
            "alert_rules": alert_rules,
            "prometheus_targets": prometheus_targets,
            "mail_receivers": mail_receivers,
        }
