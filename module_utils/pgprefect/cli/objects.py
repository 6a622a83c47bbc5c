"""The command ``pgprefect objects``, about variables, blocks, deployments and their kin of a tenant."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..core.formats import counted
from ..core.options import from_document
from ..objects.changes import ObjectChange, shown
from ..objects.drift import Declaration, Drift, find_drift
from ..objects.export import export
from ..objects.prune import plan_prune
from ..objects.record import forget, read_record
from ..objects.yaml_text import to_yaml
from ..site.configuration import ConfigurationError
from . import output
from .common import absolute_path, add_command, add_group, confirmed, load_site, tenant_api
from .output import ATTENTION, FINE

_STDIN = Path("-")
_SHOWN = 60  # characters of a value


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    actions = add_group(commands, "objects", "compare Prefect's objects with what the inventory declares", "diff")
    summary = "say what was changed by hand, what is missing, and what is not declared; changes nothing"
    diff = add_command(actions, "diff", _diff, summary, tenant=True, json=True)
    where = "what to compare with, in place of what was applied last; - for the standard input"
    diff.add_argument("--declaration", type=_source, metavar="FILE", help=where)
    summary = "delete what playbooks/objects.yml made and the inventory does not declare any more"
    prune = add_command(actions, "prune", _prune, summary, tenant=True, json=True, dry_run=True, confirmed=True)
    prune.add_argument("--declaration", type=_source, metavar="FILE", help=where)
    summary = "print what declares the objects that are there, as YAML for an inventory; changes nothing"
    add_command(actions, "export", _export, summary, tenant=True)


def _source(text: str) -> Path:
    return _STDIN if text == "-" else absolute_path(text)


def _diff(options: argparse.Namespace) -> int:
    tenant = load_site(options).tenant(options.tenant)
    declaration = _declaration(options, tenant.name)
    drift = find_drift(tenant_api(options, tenant), declaration)
    differs = bool(drift.changed or drift.missing)
    if options.json:
        output.as_json({"tenant": tenant.name, "drift": differs, **drift.as_dict()})
    else:
        _print(tenant.name, drift, declaration)
    return ATTENTION if differs else FINE


def _declaration(options: argparse.Namespace, tenant: str) -> Declaration:
    """Return what to compare with. Raises ConfigurationError."""
    path = options.declaration or Path(options.config).parent / f"{tenant}-objects.json"
    try:
        text = sys.stdin.read() if path == _STDIN else path.read_text(encoding="utf-8")
        return from_document(Declaration, json.loads(text))
    except OSError as error:
        remedy = "run this as root, on the first host of the group prefect_server, after playbooks/objects.yml"
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}): {remedy}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        where = "The standard input" if path == _STDIN else str(path)
        raise ConfigurationError(
            f"{where} is no declaration of objects ({error}): run playbooks/objects.yml."
        ) from error


def _prune(options: argparse.Namespace) -> int:
    tenant = load_site(options).tenant(options.tenant)
    record = Path(options.config).parent / f"{tenant.name}-made.json"
    changes = plan_prune(tenant_api(options, tenant), _declaration(options, tenant.name), read_record(record))
    names = [change.object for change in changes]
    does = bool(changes) and not options.dry_run
    if does and not confirmed(options, f"Delete {', '.join(names)}?"):
        does = False
        output.refuse(f"Would delete {', '.join(names)}. With --yes it does.")
    if does:
        for change in changes:
            change.apply()
            forget(record, [change.object])
    if options.json:
        output.as_json({"tenant": tenant.name, "objects": names, "deleted": does})
    else:
        verb = "would delete" if changes and not does else "deleted"
        output.verdict(f"Objects of {tenant.name}: {verb} {', '.join(names) or 'nothing'}")
    return FINE if does or options.dry_run or not changes else ATTENTION


def _export(options: argparse.Namespace) -> int:
    tenant = load_site(options).tenant(options.tenant)
    found = export(tenant_api(options, tenant))
    print(f"# The objects of the tenant {tenant.name}. Secrets are not in it: give each vault_... a value.")
    for note in found.notes:
        print(f"# Not complete: {' '.join(note.split())}.")
    print(to_yaml({"prefect_tenants": [{"name": tenant.name, **found.tenant}]}), end="")
    return FINE


def _print(tenant: str, drift: Drift, declaration: Declaration) -> None:
    differs = bool(drift.changed or drift.missing)
    counts = (
        (len(drift.changed), "changed"),
        (len(drift.missing), "missing"),
        (len(drift.undeclared), "not declared"),
    )
    found = ", ".join(f"{count} {word}" for count, word in counts if count)
    output.verdict(f"Objects of {tenant}: {found or 'as declared'}", ATTENTION if differs else FINE)
    rows: list[tuple[str, str, str | None]]
    rows = [("changed", one.object, line) for one in drift.changed for line in _lines(one)]
    rows += [("missing", name, None) for name in drift.missing]
    rows += [("not declared", name, None) for name in drift.undeclared]
    output.table(("state", "object", "what"), rows)
    if declaration.blocks and not declaration.with_secrets:
        blocks = counted(len(declaration.blocks), "block")
        print(f"\nThe secrets of {blocks} are not on this host; playbooks/objects_drift.yml compares them.")


def _lines(change: ObjectChange) -> list[str]:
    """Return of each field what is there, and what is declared."""
    before, after = shown(change.before or {}), shown(change.after or {})
    return [f"{name}: {_short(before, name)}, declared {_short(after, name)}" for name in {**before, **after}]


def _short(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        return "nothing"
    text = json.dumps(fields[name], ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
