"""SCRAM-SHA-256 verifiers, made here so that no password in plain text reaches the server or its log."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import stringprep
import unicodedata

from .errors import InputError

ITERATIONS = 4096  # PostgreSQL's own default: a client spends this on every connection

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class PasswordRefused(InputError):
    """A password that PostgreSQL's clients would not all understand in the same way."""


def saslprep(password: str) -> str:
    """Normalize a password as RFC 4013 has it.

    Where that is impossible PostgreSQL silently takes the raw bytes and other clients fail; so this refuses.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in password
        if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    if not prepared:
        raise PasswordRefused("the password is empty")
    if any(prohibited(character) for character in prepared for prohibited in _PROHIBITED):
        raise PasswordRefused("the password has a control character or another one that SASLprep (RFC 4013) forbids")
    if any(stringprep.in_table_a1(character) for character in prepared):
        raise PasswordRefused("the password has a character that SASLprep (RFC 4013) does not know")
    if any(stringprep.in_table_d1(character) for character in prepared):
        both_ends = stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])
        if not both_ends or any(stringprep.in_table_d2(character) for character in prepared):
            raise PasswordRefused("the password mixes writing directions in a way that SASLprep (RFC 4013) forbids")
    return prepared


def scram_verifier(password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """Return what PostgreSQL stores for a password: SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY."""
    salt = secrets.token_bytes(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def verifier_matches(verifier: str | None, password: str) -> bool:
    """Say whether a stored verifier belongs to a password. Anything that is not SCRAM (md5, none) does not."""
    try:
        scheme, parameters, _keys = (verifier or "").split("$")
        iterations, salt = parameters.split(":")
        expected = scram_verifier(password, base64.b64decode(salt, validate=True), int(iterations))
    except PasswordRefused:
        raise
    except ValueError:
        return False
    return scheme == "SCRAM-SHA-256" and hmac.compare_digest(expected, verifier or "")
