"""The command ``pgprefect verify``."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, replace
from typing import Any

from ..core.formats import counted
from ..core.problems import ERROR, NOTICE, WARNING, Problem
from ..schema.declaration import declaration_of
from ..schema.verify import SchemaReport, Verification, verify_site
from ..site.configuration import Site
from . import output
from .common import add_command, for_this_user, load_site
from .output import ATTENTION, BROKEN, FINE, UNKNOWN, refuse


def add_to(commands: Any) -> None:
    """Add the command to what argparse's ``add_subparsers`` returned."""
    summary = "compare the database and its server with what is declared; changes nothing"
    add_command(commands, "verify", _verify, summary, tenant=True, json=True)


def _verify(options: argparse.Namespace) -> int:
    site = load_site(options)
    found = verify_site(site)
    if options.tenant:
        found = _of_tenant(found, site, options.tenant)
    problems = for_this_user(found.problems)
    if not found.connection_test:
        return refuse("\n".join(output.in_two_lines(problem) for problem in problems), UNKNOWN)
    status = _status(problems)
    if options.json:
        output.as_json({"verified": found.verified, **asdict(found)})
    else:
        _print(site, found, problems, status)
    return status


def _of_tenant(found: Verification, site: Site, name: str) -> Verification:
    """Return what concerns a tenant or the whole site, without what names only other tenants."""

    def names(chosen: bool) -> re.Pattern[str]:
        words = [
            re.escape(word)
            for tenant in site.tenants
            if (tenant.name == name) is chosen
            for word in (tenant.schema, tenant.owner, tenant.migrator, tenant.server)
            if word
        ]
        return re.compile(rf"(?<![\w-])({'|'.join(words)})(?![\w-])" if words else "(?!)")

    own, others = names(chosen=True), names(chosen=False)

    def concerns(text: str) -> bool:
        return bool(own.search(text)) or not others.search(text)

    return replace(
        found,
        tenants={name: found.tenants[name]},
        problems=[problem for problem in found.problems if concerns(problem.object)],
        not_checked=[note for note in found.not_checked if concerns(note)],
    )


def _status(problems: list[Problem]) -> int:
    if any(problem.code == "verification_stopped" for problem in problems):
        return UNKNOWN
    if any(problem.severity == ERROR for problem in problems):
        return BROKEN
    return ATTENTION if any(problem.severity != NOTICE for problem in problems) else FINE


def _print(site: Site, found: Verification, problems: list[Problem], status: int) -> None:
    counts = ((sum(problem.severity == word for problem in problems), word) for word in (ERROR, WARNING))
    differences = " and ".join(counted(count, word) for count, word in counts if count)
    public: tuple[str, SchemaReport, str | None, str | None]
    public = (declaration_of(site).app_schema, found.public_schema, found.search_path, None)
    schemas = [public, *((part.schema, part, part.search_path, part.revision) for part in found.tenants.values())]
    tables = sum(len(part.tables) for _, part, *_ in schemas)
    if status == UNKNOWN:
        output.verdict(f"{site.database} was not looked at as a whole.", status)
    elif differences:
        output.verdict(f"{site.database} differs from what is declared: {differences}.", status)
    else:
        things = f"{counted(len(schemas), 'schema')}, {counted(tables, 'table')}"
        output.verdict(f"{site.database} is as declared: {things}, no difference.")
    rows = [(name, part.owner, len(part.tables), revision, path) for name, part, path, revision in schemas]
    output.table(["schema", "owner", "tables", "revision", "search path"], rows)
    output.problems(problems)
    if found.not_checked:
        print()
    for note in found.not_checked:
        print(f"Not checked: {note}")
