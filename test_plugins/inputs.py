"""Jinja tests of what the inventory gives to the roles."""

from __future__ import annotations

import re
from typing import Any

_CHARACTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def is_crontab_schedule(text: str) -> bool:
    """Return whether this is a schedule of five fields, without names of months and days."""
    return bool(re.fullmatch("([0-9*/,-]+ ){4}[0-9*/,-]+", text))


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


class TestModule:
    """The entry point that Ansible looks for."""

    def tests(self) -> dict[str, Any]:
        """Return the tests by their names in Jinja."""
        return {"age_recipient": is_age_recipient, "crontab_schedule": is_crontab_schedule}
