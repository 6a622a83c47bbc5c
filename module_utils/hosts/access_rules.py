"""PostgreSQL's access rules: a block of ours in pg_hba.conf and pg_ident.conf, before the rules of others.

A file counts only after PostgreSQL itself has read it without an error; else the former one is put back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.pgprefect.core.errors import ProblemError
from ansible.module_utils.pgprefect.core.problems import Problem

from .files import File, Folder, Owner
from .postgresql_cluster import Cluster, ask

BEGIN = "# BEGIN ansible-prefect: site.yml writes these lines again. The first rule that fits a connection decides."
END = "# END ansible-prefect"
# The first release owned the whole file.
_FORMER = "# Managed by ansible-prefect"
_RELOAD_SECONDS = 10

# What PostgreSQL says of pg_hba.conf on disk, which it has not loaded yet.
_ERRORS = r"""
SELECT coalesce(json_agg(json_build_array(line_number, error) ORDER BY line_number), '[]')
FROM pg_hba_file_rules WHERE error IS NOT NULL
"""
_LOADED = "SELECT to_json(pg_conf_load_time())"
_RELOAD = f"{_LOADED} FROM pg_reload_conf()"

# The rules of a new cluster, from Debian's package. They admit to nothing but what has a rule of ours.
_PACKAGE_RULES = {
    ("local", "all", "postgres", "peer"),
    *(("local", database, "all", "peer") for database in ("all", "replication")),
    *(
        ("host", database, "all", address, "scram-sha-256")
        for database in ("all", "replication")
        for address in ("127.0.0.1/32", "::1/128")
    ),
}


class AccessRulesError(ProblemError):
    """The rules cannot be as they are wanted; nothing has changed."""


@dataclass(frozen=True)
class Wanted:
    """The lines of ours in both files.

    ``exclusive`` keeps the rules of others from admitting anybody to our database; None leaves that to the cluster.
    ``keep_others`` is False where rules of others are refused.
    """

    database: str
    rules: Sequence[str]
    mappings: Sequence[str]
    exclusive: bool | None = None
    keep_others: bool = True


@dataclass(frozen=True)
class AccessPlan:
    """Both files as they are to be, with what is there now, and the rules of others that stay."""

    writes: list[tuple[File, str]]
    others: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return it as a module does."""
        return {
            "changed": bool(self.writes),
            "written": [file.path for file, _ in self.writes],
            "other_rules": self.others,
            "diff": [
                {
                    "before": before.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
                    "after": file.content.decode("utf-8", "replace"),
                    "before_header": file.path,
                    "after_header": file.path,
                }
                for file, before in self.writes
            ],
        }


def plan(folder: str, wanted: Wanted, cluster: Cluster, owner: Owner) -> AccessPlan:
    """Return what is to be written. Raises AccessRulesError where there are rules of others that are not to stay."""
    rules, mappings = _text(f"{folder}/pg_hba.conf"), _text(f"{folder}/pg_ident.conf")
    foreign = other_lines(rules)
    others = [" ".join(words) for words in _rules(foreign) if words not in _PACKAGE_RULES]
    if not cluster.databases and not others:
        foreign = ""  # with no other database the package's rules serve nobody
    if others and not wanted.keep_others:
        where = f"{folder}/pg_hba.conf"
        message = f"{where} has rules of others, and postgresql_hba_other_rules is refuse: {'; '.join(others)}."
        remedy = (
            "Name what must stay in postgresql_hba_extra_rules and remove the others there, or keep all of them: "
            "postgresql_hba_other_rules: keep"
        )
        raise AccessRulesError(Problem("hba_other_rules", where, message, remedy))
    own = [*wanted.rules, *(_rejections(wanted.database) if _is_exclusive(wanted, cluster, rules) else [])]
    texts = {
        "pg_ident.conf": (mappings, _joined(wanted.mappings, other_lines(mappings))),
        "pg_hba.conf": (rules, _joined(own, foreign)),
    }
    parent = Folder(folder, 0o755, owner)
    writes = []
    for name, (before, after) in texts.items():
        if before != after:
            content = after.encode("utf-8", "surrogateescape")
            writes.append((File(f"{folder}/{name}", content, 0o640, owner, parent, backup=bool(before)), before))
    return AccessPlan(writes, others)


def other_lines(text: str) -> str:
    """Return a file without our block: the lines of others, as they wrote them."""
    if BEGIN.partition(":")[0] not in text:
        return "" if text.startswith(_FORMER) else text
    before, _, rest = text.partition(BEGIN.partition(":")[0])
    _, _, after = rest.partition(f"\n{END}\n")
    return before + after.lstrip("\n")


def _rules(text: str) -> list[tuple[str, ...]]:
    return [tuple(words) for line in text.splitlines() for words in [line.partition("#")[0].split()] if words]


def _is_exclusive(wanted: Wanted, cluster: Cluster, present: str) -> bool:
    if wanted.exclusive is not None:
        return wanted.exclusive
    if not cluster.exists:
        return True
    if cluster.exclusive is None:  # a stopped server does not say: leave it as it is
        return all(line in present for line in _rejections(wanted.database))
    return cluster.exclusive


def _rejections(database: str) -> list[str]:
    name = '"{}"'.format(database.replace('"', '""'))
    return [f"local {name} all reject", f"host {name} all all reject"]


def _joined(own: Sequence[str], others: str) -> str:
    return "\n".join([BEGIN, *own, END, *([others] if others else [""])])


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def apply(planned: AccessPlan, cluster: Cluster) -> None:
    """Write the files, let PostgreSQL read them, and reload it; one that does not run reads them when it starts.

    Raises AccessRulesError; then the former files are back.
    """
    for file, _ in planned.writes:
        file.write()
    if not cluster.running or not planned.writes:
        return
    port = cluster.port or 5432
    found = ask(port, _ERRORS)
    errors = [f"line {number} of pg_hba.conf: {error}" for number, error in found or []]
    if found is None:
        errors = ["it does not answer any more"]
    if errors:
        for file, before in planned.writes:
            _put_back(file, before)
        raise AccessRulesError(_refused(planned, errors))
    loaded = before_reload = ask(port, _RELOAD)
    deadline = time.monotonic() + _RELOAD_SECONDS
    while loaded == before_reload and time.monotonic() < deadline:
        time.sleep(0.05)
        loaded = ask(port, _LOADED)


def _put_back(file: File, before: str) -> None:
    if before:
        File(file.path, before.encode("utf-8", "surrogateescape"), file.mode, file.owner, file.folder).write()
    else:
        os.unlink(file.path)


def _refused(planned: AccessPlan, errors: Sequence[str]) -> Problem:
    path = planned.writes[0][0].path
    message = f"PostgreSQL cannot read the access rules, and the former ones are back: {'; '.join(errors)}."
    remedy = "Correct the rule in that line: postgresql_hba_extra_rules has yours, the file itself those of others."
    return Problem("hba_refused", path, message, remedy)
