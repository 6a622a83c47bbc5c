"""What a retention policy takes and refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgprefect.runs.retention import CLEANED_TABLES, Policy, PolicyError, named

DAYS = ("days_to_keep", "logs_days", "artifacts_days", "events_days", "unattached_days")


def test_a_policy_from_json_or_yaml() -> None:
    policy = Policy.from_arguments(
        {
            "days_to_keep": "14",
            "days_by_state": {"failed": 90},
            "keep_newest": 3.0,
            "protected_tags": ["audit"],
            "logs_days": None,
            "expired_cache": False,
            "max_replication_lag_bytes": 1024,
            "zombie_hours": 0.5,
        }
    )
    assert (policy.days_to_keep, policy.days_by_state, policy.keep_newest) == (14, {"FAILED": 90}, 3)
    assert (policy.protected_tags, policy.logs_days, policy.expired_cache) == (("audit",), None, False)
    assert (policy.max_replication_lag_bytes, policy.zombie_hours) == (1024, 0.5)
    assert Policy.from_arguments({}) == Policy()


@pytest.mark.parametrize("name", DAYS)
def test_zero_days_need_a_flag(name: str) -> None:
    with pytest.raises(PolicyError, match=f"{name}: 0 deletes everything that has ended; allow_zero_days"):
        Policy.from_arguments({name: 0})
    assert getattr(Policy.from_arguments({name: 0, "allow_zero_days": True}), name) == 0


@pytest.mark.parametrize("name", DAYS)
@given(
    days=st.floats(max_value=-1e-300) | st.integers(max_value=-1) | st.floats(min_value=36_501, allow_infinity=False)
)
def test_a_cut_off_in_the_future_or_before_all_time_is_refused(name: str, days: float) -> None:
    with pytest.raises(PolicyError, match=f"{name}: .*(must be from 0 to 36500 days|is not a number)"):
        Policy.from_arguments({name: days, "allow_zero_days": True})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"days": 3}, "A policy has no days; it has: days_to_keep, "),
        ({"days_to_keep": "soon"}, "days_to_keep: 'soon' is not a number"),
        ({"days_to_keep": True}, "days_to_keep: True is not a number"),
        ({"days_to_keep": float("nan")}, "days_to_keep: nan is not a number"),
        ({"days_to_keep": -1}, "the cut-off would lie in the future"),
        ({"days_by_state": {"RUNNING": 3}}, "days_by_state: RUNNING does not end a run"),
        ({"days_by_state": {"FAILED": -3}}, r"days_by_state\[FAILED\]: -3 must be"),
        ({"days_by_state": {"FAILED": 0}}, r"days_by_state\[FAILED\]: 0 deletes everything"),
        ({"days_by_state": [3]}, r"days_by_state: \[3\] must map states to days"),
        ({"protected_tags": "audit"}, "protected_tags: 'audit' must be a list of tags"),
        ({"expired_cache": "yes"}, "expired_cache: 'yes' must be true or false"),
        ({"keep_newest": 1.5}, "keep_newest: 1.5 must be a whole number"),
        ({"keep_newest": -1}, "keep_newest: -1 cannot be negative"),
        ({"batch_size": 0}, "batch_size: 0 must be above 0"),
        ({"batch_size": None}, "batch_size: None is not a number"),
        ({"zombie_hours": -1}, "zombie_hours: -1 must be above 0"),
        ({"zombie_hours": None, "crash_zombies": True}, "crash_zombies needs zombie_hours"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy.from_arguments(arguments)


def test_a_policy_that_is_made_in_code_is_checked_too() -> None:
    with pytest.raises(PolicyError, match="days_to_keep: nan is not a number"):
        Policy(days_to_keep=float("nan"))
    with pytest.raises(PolicyError, match="batch_size: 0 must be above 0"):
        replace(Policy(), batch_size=0)


def test_counts_have_the_promised_names() -> None:
    counts = named(dict.fromkeys(CLEANED_TABLES, 7))
    assert {"flow_runs_deleted", "task_runs_deleted", "logs_deleted", "events_deleted"} <= set(counts)
    assert len(counts) == len(CLEANED_TABLES)
