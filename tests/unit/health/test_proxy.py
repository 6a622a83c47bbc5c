"""What health makes of a proxy's answer, which is that of a real HAProxy, without the columns that nothing reads."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from pgprefect.core.problems import WARNING
from pgprefect.health import proxy as module
from pgprefect.health.proxy import proxy

ANSWER = """\
# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,
https_443,FRONTEND,,,7,15,8192,83,3723067,25473868,0,0,6,,,,,OPEN,,
tenant_prefect,app1,0,0,3,11,,6457,1764060,12233517,,0,,0,1,0,42,{},1,
tenant_prefect,app2,0,0,3,12,,6895,1959007,13240351,,0,,0,0,0,0,{},1,
tenant_prefect,BACKEND,0,0,6,12,820,13310,3723067,25473868,0,0,,0,1,0,42,UP,1,
peers_prefect,FRONTEND,,,2,8,8192,263,166881,440364,0,0,0,,,,,OPEN,,
own_prefect,own,0,0,2,6,,566,166881,440364,,0,,10,12,30,0,no check,1,

"""


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("UP", "UP", []),
        ("UP", "DRAIN", ["app2"]),
        ("MAINT", "DRAIN", ["app1", "app2"]),
        ("UP", "DOWN 1/2", []),  # its own host tells of it
    ],
)
def test_servers_that_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str, told: list[str]
) -> None:
    monkeypatch.setattr(module, "SOCKET", str(tmp_path / "admin.sock"))
    assert not module.may_be_asked()
    asked = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(module.SOCKET)
        server.listen()

        def answer() -> None:
            client, _ = server.accept()
            with client:
                asked.append(client.recv(100))
                client.sendall(ANSWER.format(first, second).encode())

        thread = threading.Thread(target=answer)
        thread.start()
        assert module.may_be_asked()
        problems, details = proxy(5)
        thread.join()
    assert asked == [b"show stat\n"]
    assert details == {"servers": {"prefect/app1": first, "prefect/app2": second}}
    expected = [("proxy_drains", f"server {name} of tenant prefect", WARNING) for name in told]
    assert [(problem.code, problem.object, problem.severity) for problem in problems] == expected
    assert all("was told to send nothing to" in problem.message for problem in problems)
