"""Which text is a public key of age."""

from __future__ import annotations

import pytest

from filter_plugins.backup import is_age_recipient

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
