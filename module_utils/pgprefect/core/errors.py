"""The root of pgprefect's exceptions."""

from __future__ import annotations

from .problems import Problem


class PgprefectError(Exception):
    """Something that pgprefect cannot do; the message says what is wrong, where, and what to do next."""


class ProblemError(PgprefectError):
    """An error that is described by a Problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class InputError(PgprefectError, ValueError):
    """A value that somebody gave is not allowed; the message names it and says what is."""
