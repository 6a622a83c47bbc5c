"""A problem: what is wrong, where, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

ERROR = "error"
WARNING = "warning"
NOTICE = "notice"  # worth saying, and no reason to call anything degraded or different


@dataclass(frozen=True)
class Problem:
    """One finding. ``remedy`` is the SQL, the command or the setting that resolves it."""

    code: str
    object: str
    message: str
    remedy: str
    severity: str = ERROR

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return asdict(self)


def format_problems(problems: list[Problem]) -> str:
    """Return all problems as one message for a person."""
    return "\n".join(f"{problem.message} What to do: {problem.remedy}" for problem in problems)
