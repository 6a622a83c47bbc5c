"""What the package says about names and passwords, against PostgreSQL's own word."""

from __future__ import annotations

import contextlib

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pgprefect.core.scram import PasswordRefused, scram_verifier
from pgprefect.core.sql import _KEYWORDS, Names, Statement, Value, quote, quote_literal, search_path_names

from tests.support.postgresql import Server

# Any name that PostgreSQL takes: 1 to 63 bytes, no NUL and no half of a surrogate pair.
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63).filter(
    lambda name: len(name.encode()) <= 63
)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
on_a_server = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def connection(postgresql_server: Server) -> psycopg2.extensions.connection:
    connection: psycopg2.extensions.connection = postgresql_server.connect("postgres")
    connection.autocommit = False
    return connection


@on_a_server
@given(name=names)
def test_quoted_names_are_read_back(connection: psycopg2.extensions.connection, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT parse_ident(%s)", (quote(name),))
        assert cursor.fetchone() == ([name],)


@on_a_server
@given(text=texts)
def test_quoted_literals_are_read_back(connection: psycopg2.extensions.connection, text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {quote_literal(text)}")
        assert cursor.fetchone() == (text,)


@on_a_server
@given(path=st.lists(names, min_size=1, max_size=4))
def test_search_paths_are_read_back(connection: psycopg2.extensions.connection, path: list[str]) -> None:
    with connection.cursor() as cursor:
        Statement("SET LOCAL search_path TO {}", (Names(tuple(path)),)).execute(cursor)
        cursor.execute("SHOW search_path")
        row = cursor.fetchone()
    connection.rollback()
    assert row is not None and search_path_names(row[0]) == path
    assert search_path_names(", ".join(map(quote, path))) == path


def test_words_that_need_quotes(connection: psycopg2.extensions.connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'")
        assert {word for (word,) in cursor} <= _KEYWORDS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(password=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_passwords_log_in(postgresql_server: Server, password: str) -> None:
    """What is taken logs in over SCRAM; what is not is refused here and not by some client later."""
    try:
        verifier = scram_verifier(password)
    except PasswordRefused:
        return
    with contextlib.closing(postgresql_server.connect("postgres")) as connection, connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS tried; CREATE ROLE tried LOGIN")
        Statement("ALTER ROLE tried PASSWORD {}", (Value(verifier),)).execute(cursor)
    assert postgresql_server.sql("postgres", "SELECT current_user", user="tried", password=password) == [("tried",)]
