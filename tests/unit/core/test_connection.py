"""Connections: as which user, and without a driver."""

from __future__ import annotations

import os
import pwd
import sys

import pytest
from pgprefect.core.connection import ConnectionFailed, Login, connect


def test_over_the_unix_socket_root_becomes_the_role_for_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PostgreSQL's peer method sees is the user at the moment of connecting."""
    import psycopg2

    monkeypatch.setattr(psycopg2, "connect", lambda **_arguments: pytest.fail(str(os.geteuid()), pytrace=False))
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    nobody = pwd.getpwnam("nobody")
    with pytest.raises(pytest.fail.Exception, match=f"^{nobody.pw_uid}$"):
        connect(Login(user="nobody"), "x")
    assert os.geteuid() == 0
    for login in (Login(user="nobody", host="h"), Login(user="nobody", password="p"), Login(user="no_such_user")):
        with pytest.raises(pytest.fail.Exception, match=r"^0$"):
            connect(login, "x")


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ConnectionFailed) as failed:
        connect(Login(), "x")
    assert failed.value.problem.code == "driver_missing" and "python3-psycopg2" in failed.value.problem.remedy
