"""Verifiers of passwords, as the standard and PostgreSQL compute them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgprefect.core.scram import PasswordRefused, saslprep, scram_verifier, verifier_matches


# From RFC 7677's example, whose client and server messages these keys produce.
def test_scram_verifier_of_the_standard() -> None:
    verifier = scram_verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    assert verifier == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_printable_ascii_is_taken_as_it_is(password: str) -> None:
    assert saslprep(password) == password
    verifier = scram_verifier(password, iterations=1)
    assert verifier_matches(verifier, password) and not verifier_matches(verifier, password + "x")


@pytest.mark.parametrize("stored", [None, "", "md5abc", "SCRAM-SHA-256$x:y$z:w", "SCRAM-SHA-256$1:!$a:b", "a$b$c$d"])
def test_other_hashes_do_not_match(stored: str | None) -> None:
    assert not verifier_matches(stored, "password")


# The examples of RFC 4013, and the two rules on right-to-left text.
@pytest.mark.parametrize(
    ("password", "prepared"),
    [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b")],
)
def test_saslprep(password: str, prepared: str) -> None:
    assert saslprep(password) == prepared
    assert verifier_matches(scram_verifier(password, iterations=1), prepared)


@pytest.mark.parametrize(
    "password", ["", "\u00ad", "\a", "\u0627\u0031", "\u0627a\u0628", "\ue000", "\u0221", "\ud800"]
)
def test_passwords_that_clients_would_not_agree_on(password: str) -> None:
    with pytest.raises(PasswordRefused):
        saslprep(password)
