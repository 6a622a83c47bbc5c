"""Public keys of age and schedules of a crontab are told from other text."""

from __future__ import annotations

import pytest

from test_plugins.inputs import is_age_recipient, is_crontab_schedule

# As age-keygen printed it.
KEY = "age1cxcdg5c8h873em4yf3m665n0fvlqwlcwq9zu0335vceamf0wyg8sdycypf"


def test_a_key_as_it_was_printed() -> None:
    assert is_age_recipient(KEY)


@pytest.mark.parametrize("position", range(4, 62))
def test_a_wrong_character_is_found(position: int) -> None:
    other = "q" if KEY[position] != "q" else "p"
    assert not is_age_recipient(KEY[:position] + other + KEY[position + 1 :])


@pytest.mark.parametrize("text", ["", "age1", KEY[:-1], KEY + "q", KEY.upper(), f" {KEY}", "ssh-ed25519 AAAA"])
def test_what_is_none(text: str) -> None:
    assert not is_age_recipient(text)


@pytest.mark.parametrize("text", ["0 2 * * *", "*/15 0,12 1-7 * 0"])
def test_a_schedule(text: str) -> None:
    assert is_crontab_schedule(text)


@pytest.mark.parametrize("text", ["", "0 2 * *", "0 2 * * * *", "0 2 * * mon", "0 2 * * *\n", "@daily"])
def test_what_is_no_schedule(text: str) -> None:
    assert not is_crontab_schedule(text)
