"""Names, search paths and values as SQL."""

from __future__ import annotations

import pytest
from pgprefect.core.sql import Statement, Value, quote, search_path_names


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("prefect", "prefect"),
        ("Prefect", '"Prefect"'),
        ("user", '"user"'),
        ('a"b', '"a""b"'),
        ("1a", '"1a"'),
        ("", '""'),
        (("a", "B"), 'a."B"'),
    ],
)
def test_quote(name: str | tuple[str, ...], quoted: str) -> None:
    assert quote(name) == quoted


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("prefect, extensions", ["prefect", "extensions"]),
        ('"My, ""odd"" one",public', ['My, "odd" one', "public"]),
        ("Prefect", ["prefect"]),
        ('"$user", public', ["$user", "public"]),
        ("", []),
    ],
)
def test_search_path_names(path: str, names: list[str]) -> None:
    assert search_path_names(path) == names


def test_values_are_shown_as_sql() -> None:
    shown = str(Statement("SELECT {}, {}, {}", (Value("it's"), Value(5), Value("x", secret=True))))
    assert shown == "SELECT 'it''s', 5, '********'"
