"""Users of the operating system, by name and by number."""

from __future__ import annotations

import pwd


def user_number(name: str) -> int | None:
    """Return a user's number, or None if this host does not have the user."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def user_name(number: int) -> str | None:
    """Return a user's name, or None if no user has the number."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return None
