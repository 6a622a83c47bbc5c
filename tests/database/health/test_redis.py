"""Whether health knows how a tenant's Redis is, of a real one."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pgprefect.core.problems import ERROR, WARNING
from pgprefect.health import redis as module
from pgprefect.health.redis import redis
from pgprefect.health.thresholds import Thresholds
from pgprefect.site.configuration import Tenant
from redis import Redis, RedisError

from tests.support.ports import free_port
from tests.support.redis_server import running_redis

TENANT = Tenant(name="research", schema="research", redis=True)
PASSWORD = "not for your eyes"


def look() -> tuple[list[tuple[str, str]], dict[str, Any]]:
    problems, details = redis(TENANT, Thresholds(), 2)
    assert PASSWORD not in f"{problems}{details}"
    return [(problem.code, problem.severity) for problem in problems], details


def said(words: str) -> bool:
    return words in redis(TENANT, Thresholds(), 2)[0][0].message


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A port that the tenant's environment names."""
    free = free_port()
    file = tmp_path / "research-server.env"
    url = f"redis://default:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{free}/0"
    file.write_text(f'PREFECT_REDIS_MESSAGING_URL="{url}"\n')
    monkeypatch.setattr(module, "ENVIRONMENT", str(tmp_path / "{}-server.env"))
    return free


@pytest.fixture
def server(port: int, tmp_path: Path) -> Iterator[Redis]:
    """A Redis with a password and 8 MB that throws nothing away."""
    with running_redis(tmp_path, port, PASSWORD, "--maxmemory", "8mb", "--maxmemory-policy", "noeviction") as client:
        yield client


def test_one_that_takes_writes_is_well_until_it_is_full(server: Redis) -> None:
    problems, details = look()
    assert problems == [] and 0 < details["used_percent"] < 70
    for name in ("much", "as much", "and more"):
        server.set(name, b"x" * 1_500_000)
    assert look()[0] == [("redis_nearly_full", WARNING)] and said("of its memory; full, it takes no writes")
    # What a client needed meanwhile is free again, so that it is filled more than once.
    for again in range(3):
        with pytest.raises(RedisError, match="maxmemory"):
            for number in range(100_000):
                server.set(f"more{again}-{number}", b"x" * (100_000 if again == 0 and number < 20 else 100))
    (problem,) = redis(TENANT, Thresholds(), 2)[0]
    assert (problem.code, problem.severity) == ("redis_refuses", ERROR) and "takes no writes (" in problem.message


def test_one_at_a_socket(port: int, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    url = f"unix://default:{PASSWORD.replace(' ', '%20')}@{path}?db=0"
    (tmp_path / "research-server.env").write_text(f'PREFECT_REDIS_MESSAGING_URL="{url}"\n')
    assert look()[0] == [("redis_refuses", ERROR)]
    with running_redis(tmp_path, port, PASSWORD, "--unixsocket", str(path)):
        problems, details = look()
        assert problems == [] and details["address"] == str(path)


@pytest.mark.usefixtures("port")
def test_one_that_is_away() -> None:
    assert look()[0] == [("redis_refuses", ERROR)]


@pytest.mark.usefixtures("server")
def test_a_wrong_password(tmp_path: Path) -> None:
    file = tmp_path / "research-server.env"
    file.write_text(file.read_text().replace("default:", "default:an%20older"))
    assert look()[0] == [("redis_refuses", ERROR)]


@pytest.mark.usefixtures("port")
def test_what_may_not_be_read_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "research-server.env").write_text("")
    assert look()[0] == [("check_not_permitted", ERROR)]
    (tmp_path / "research-server.env").unlink()
    assert look()[0] == [("check_not_permitted", ERROR)]


@pytest.mark.usefixtures("port")
def test_a_python_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "redis":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert look()[0] == [("driver_missing", ERROR)]
