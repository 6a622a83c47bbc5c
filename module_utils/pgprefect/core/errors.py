"""The root of pgprefect's exceptions."""

from __future__ import annotations

from .problems import Problem


class PgprefectError(Exception):
    """Something that pgprefect cannot do; the message says what is wrong, where, and what to do next."""


class ProblemError(PgprefectError):
    """An error that is described by one Problem or by several."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(" ".join(problem.message for problem in problems))
        self.problems = list(problems)

    @property
    def problem(self) -> Problem:
        """The first problem."""
        return self.problems[0]


class InputError(PgprefectError, ValueError):
    """A value that somebody gave is not allowed; the message names it and says what is."""
