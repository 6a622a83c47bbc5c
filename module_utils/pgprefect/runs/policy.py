"""The retention policy: what a cleanup keeps, and how gently it deletes the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..core.errors import InputError
from ..core.prefect import TERMINAL_STATES

_MOST_DAYS = 36_500
_MOST = 1e15  # of anything; PostgreSQL counts in 64 bits
_Rule = Callable[[str, Any], Any]  # from a setting's name and value to the value as a policy has it


class PolicyError(InputError):
    """A policy has a setting that is not allowed."""


def _number(name: str, value: Any) -> float:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool) and abs(float(value)) <= _MOST:
            return float(value)
    raise PolicyError(f"{name}: {repr(value)[:40]} is not a number up to {_MOST:g}.")


def _above_zero(name: str, value: Any) -> float:
    number = _number(name, value)
    if number <= 0:
        raise PolicyError(f"{name}: {number:g} must be above 0.")
    return number


def _not_negative(name: str, value: Any) -> float:
    number = _number(name, value)
    if number < 0:
        raise PolicyError(f"{name}: {number:g} cannot be negative.")
    return number


def _days(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0 <= number <= _MOST_DAYS:
        hint = "; the cut-off would lie in the future" if number < 0 else ""
        raise PolicyError(f"{name}: {number:g} must be from 0 to {_MOST_DAYS} days{hint}.")
    return number


def _days_by_state(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise PolicyError(f"{name}: {value!r} must map states to days.")
    days = {str(state).upper(): number for state, number in value.items()}
    unknown = sorted(set(days) - set(TERMINAL_STATES))
    if unknown:
        states = ", ".join(TERMINAL_STATES)
        raise PolicyError(f"{name}: {', '.join(unknown)} does not end a run; the states that do are {states}.")
    return {state: _days(f"{name}[{state}]", number) for state, number in days.items()}


def _tags(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(tag, str) for tag in value):
        raise PolicyError(f"{name}: {value!r} must be a list of tags.")
    return tuple(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(f"{name}: {value!r} must be true or false.")
    return value


def _whole(rule: _Rule) -> _Rule:
    def checked(name: str, value: Any) -> int:
        number = rule(name, value)
        if number != int(number):
            raise PolicyError(f"{name}: {number:g} must be a whole number.")
        return int(number)

    return checked


def _optional(rule: _Rule) -> _Rule:
    return lambda name, value: None if value is None else rule(name, value)


def _setting(default: Any, rule: _Rule) -> Any:
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True)
class Policy:
    """A policy. Without a number of days (None) a class of rows is left alone.

    Raises PolicyError for a value that is not allowed.
    """

    # Flow runs are deleted so many days after their end; a state type can have days of its own.
    days_to_keep: float | None = _setting(30, _optional(_days))
    days_by_state: Mapping[str, float] = field(default_factory=dict, metadata={"rule": _days_by_state})
    # So many ended runs of each deployment stay, and so do runs with one of these tags, with all that belongs to them.
    keep_newest: int = _setting(0, _whole(_not_negative))
    protected_tags: tuple[str, ...] = _setting((), _tags)
    # Logs and artifacts of runs that stay, and events.
    logs_days: float | None = _setting(None, _optional(_days))
    artifacts_days: float | None = _setting(None, _optional(_days))
    events_days: float | None = _setting(None, _optional(_days))
    # Logs and artifacts of a flow run that is gone, and collections without an artifact.
    orphans: bool = _setting(True, _flag)
    # Logs and artifacts that never had a run.
    unattached_days: float | None = _setting(None, _optional(_days))
    # Entries of the task runs' cache that have expired or lost their task run.
    expired_cache: bool = _setting(True, _flag)
    # Runs that have been running for longer, and without a sign of life for as long, are reported; or set to Crashed.
    zombie_hours: float | None = _setting(24, _optional(_above_zero))
    crash_zombies: bool = _setting(False, _flag)
    allow_zero_days: bool = _setting(False, _flag)
    # The limits of one transaction: its flow runs and its time.
    batch_size: int = _setting(5000, _whole(_above_zero))
    max_transaction_seconds: float = _setting(0.5, _above_zero)
    # A cleanup pauses while the replicas lag more, or more other sessions are active in the database.
    max_replication_lag_bytes: int | None = _setting(None, _optional(_whole(_not_negative)))
    max_replication_lag_seconds: float | None = _setting(None, _optional(_not_negative))
    max_active_sessions: int | None = _setting(None, _optional(_whole(_not_negative)))
    pause_timeout: float = _setting(300, _above_zero)

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = setting.metadata["rule"](setting.name, getattr(self, setting.name))
            object.__setattr__(self, setting.name, value)
        if not self.allow_zero_days:
            by_state = {f"days_by_state[{state}]": days for state, days in self.days_by_state.items()}
            for name, days in {**self.days, **by_state}.items():
                if days == 0:
                    raise PolicyError(
                        f"{name}: 0 deletes everything that has ended; allow_zero_days says that this is meant."
                    )
        if self.crash_zombies and self.zombie_hours is None:
            raise PolicyError("crash_zombies needs zombie_hours, the hours after which a run counts as a zombie.")

    @property
    def days(self) -> dict[str, float | None]:
        """The settings that are a number of days, by name."""
        names = ("days_to_keep", "logs_days", "artifacts_days", "events_days", "unattached_days")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Policy:
        """Return the policy of names and values as they come from JSON, YAML or a module. Raises PolicyError."""
        known = [setting.name for setting in fields(cls)]
        unknown = sorted(set(arguments) - set(known))
        if unknown:
            raise PolicyError(f"A policy has no {', '.join(unknown)}; it has: {', '.join(known)}.")
        return cls(**arguments)
