"""The roles of a cluster's members are made, and nobody else's is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from ansible.module_utils.hosts.replication_roles import plan
from ansible.module_utils.pgprefect.core.errors import ProblemError

from tests.support.postgresql import Server

NAMES = ("replicates", "rewinds")


@pytest.fixture
def server(postgresql_server: Server) -> Iterator[Server]:
    yield postgresql_server
    for name in NAMES:
        with contextlib.suppress(Exception):
            postgresql_server.sql("postgres", f"DROP OWNED BY {name}")
        postgresql_server.sql("postgres", f"DROP ROLE IF EXISTS {name}")


def apply(server: Server, password: str = "one") -> list[str]:
    with contextlib.closing(server.connect("postgres")) as connection, connection.cursor() as cursor:
        statements = list(plan(cursor, *NAMES, dict.fromkeys(NAMES, password)))
        for statement in statements:
            statement.execute(cursor)
    return [str(statement).split(" PASSWORD")[0] for statement in statements]


def test_the_roles_are_made_once_and_get_other_passwords(server: Server) -> None:
    made = apply(server)
    assert made[:2] == [
        "CREATE ROLE replicates LOGIN REPLICATION",
        "COMMENT ON ROLE replicates IS 'Made by ansible-prefect'",
    ]
    assert made[2] == "CREATE ROLE rewinds LOGIN NOREPLICATION"
    assert apply(server) == []
    assert apply(server, "another") == [
        "ALTER ROLE replicates LOGIN REPLICATION",
        "ALTER ROLE rewinds LOGIN NOREPLICATION",
    ]


def test_a_role_of_somebody_else_stays_as_it_is(server: Server) -> None:
    server.sql("postgres", "CREATE ROLE rewinds LOGIN PASSWORD 'theirs' CONNECTION LIMIT 3")
    before = server.sql("postgres", "SELECT * FROM pg_authid WHERE rolname = 'rewinds'")
    with pytest.raises(ProblemError) as failed:
        apply(server)
    assert [problem.code for problem in failed.value.problems] == ["role_taken"]
    assert server.sql("postgres", "SELECT * FROM pg_authid WHERE rolname = 'rewinds'") == before
    assert server.sql("postgres", "SELECT FROM pg_roles WHERE rolname = 'replicates'") == []
    # The remedy that it names.
    server.sql("postgres", failed.value.problem.remedy.partition("taken over: ")[2])
    assert "ALTER ROLE rewinds LOGIN NOREPLICATION" in apply(server)
