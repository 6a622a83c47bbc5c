"""Public keys of age."""

from __future__ import annotations

import re
from typing import Any

from .forms import Form

_CHARACTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def is_age_recipient(key: str) -> bool:
    """Return whether this is a public key of age: Bech32 (BIP 173), whose checksum finds a wrong character."""
    if not re.fullmatch(f"age1[{_CHARACTERS}]{{58}}", key):
        return False
    checksum = 1
    prefix = b"age"
    for value in (
        *(byte >> 5 for byte in prefix),
        0,
        *(byte & 31 for byte in prefix),
        *map(_CHARACTERS.index, key[4:]),
    ):
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            checksum ^= generator if top >> bit & 1 else 0
    return checksum == 1


def _check(value: Any) -> None:
    if not is_age_recipient(str(value)):
        raise ValueError


# A private key that was taken for a public one is not to be repeated.
AGE_RECIPIENT = Form("a public key as `age-keygen` prints it, age1 and 58 more characters", _check, secret=True)
