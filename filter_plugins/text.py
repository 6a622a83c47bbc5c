"""Filters that write values as files, SQL and people read them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def env_quote(value: Any) -> str:
    """Quote a value for a file that both systemd's EnvironmentFile= and a shell read."""
    text = str(value)
    if not text.isprintable():
        raise AnsibleFilterError("a value of an environment file has a line break or another control character")
    return '"' + re.sub(r'(["\\`$])', r"\\\1", text) + '"'


def env_lines(env: Mapping[str, Any]) -> str:
    """Write variables as the lines of such a file, without a line break at the end."""
    return "\n".join(f"{name}={env_quote(value)}" for name, value in sorted(env.items()))


def pgpass_lines(passwords: Mapping[str, str]) -> str:
    """Write passwords by role as a password file of libpq, for any server and database."""

    def escape(word: str) -> str:
        return re.sub(r"([\\:])", r"\\\1", word)

    return "".join(f"*:*:*:{escape(role)}:{escape(password)}\n" for role, password in sorted(passwords.items()))


def search_path(schemas: Sequence[str]) -> str:
    """Write schemas as the value of search_path, each quoted only if its name needs it."""
    return ", ".join(
        name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"{}"'.format(name.replace('"', '""')) for name in schemas
    )


def created_tables(script: str) -> list[str]:
    """Return the names of the tables that a script creates."""
    return re.findall(r"^CREATE TABLE IF NOT EXISTS (\w+)", script, re.MULTILINE)


def format_problems(problems: Sequence[Mapping[str, str]]) -> str:
    """Write each problem on a line of its own: what is wrong, and what to do."""
    return "\n".join(f"{problem['message']} {problem['remedy']}" for problem in problems)


def step_times(marks: Sequence[tuple[str, float]]) -> str:
    """Write how long each step took, of its end's time; the first mark is the beginning."""
    ends = [(step, end - before) for (_, before), (step, end) in itertools.pairwise(marks)]
    return ", ".join(f"{step} {seconds:.0f} s" for step, seconds in ends)


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {
            "env_lines": env_lines,
            "pgpass_lines": pgpass_lines,
            "search_path": search_path,
            "created_tables": created_tables,
            "format_problems": format_problems,
            "step_times": step_times,
        }
