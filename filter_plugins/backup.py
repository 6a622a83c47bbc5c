"""Filters that tell what a backup can use from what it can not."""

from __future__ import annotations

import re
from typing import Any

_CHARACTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def is_age_recipient(key: str) -> bool:
    """Say whether this is a public key of age: Bech32 (BIP 173), whose checksum finds a wrong character."""
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


class FilterModule:
    """What Ansible finds here."""

    def filters(self) -> dict[str, Any]:
        return {"is_age_recipient": is_age_recipient}
