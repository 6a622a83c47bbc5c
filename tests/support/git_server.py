"""A git server over https, as a team has one: git's own http-backend behind TLS, and a token for what is private."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority

TOKEN = "t0ken-%41;$HOME"
_AUTHOR = {"NAME": "somebody", "EMAIL": "somebody@example.com", "DATE": "2026-11-25T02:00:00Z"}


@dataclass
class Repository:
    """A bare repository, and a clone of it in which somebody works."""

    bare: Path
    work: Path

    @classmethod
    def make(cls, folder: Path, name: str) -> Repository:
        made = cls(folder / f"{name}.git", folder / f"{name}-work")
        run_git("init", "--quiet", "--bare", "--initial-branch=main", str(made.bare))
        run_git("init", "--quiet", "--initial-branch=main", str(made.work))
        return made

    def git(self, *arguments: str) -> str:
        return run_git("-C", str(self.work), *arguments)

    def commit(self, **files: str) -> str:
        """Commit files, whose names have _py for .py, push the branch and all tags, and return the commit."""
        for name, text in files.items():
            (self.work / name.replace("_py", ".py")).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=Change something")
        self.push()
        return self.git("rev-parse", "HEAD")

    def push(self, *references: str) -> None:
        self.git("push", "--quiet", str(self.bare), *(references or ("main", "--tags")))


def run_git(*arguments: str) -> str:
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _AUTHOR.items()}
    done = subprocess.run(["git", *arguments], env={**os.environ, **who}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class HttpsServer:
    """The server's address, the file of its authority, and the users and passwords that it was given."""

    url: str
    authority: Path
    logins: list[str] = field(default_factory=list)


class _Server(http.server.ThreadingHTTPServer):
    told: HttpsServer

    def handle_error(self, *_arguments: Any) -> None:
        """Say nothing of a client that does not trust the certificate."""


@contextlib.contextmanager
def serving_https(folder: Path, home: Path) -> Iterator[HttpsServer]:
    """Serve the repositories of a folder; those in `private/` for the token alone."""
    signer, authority = Authority(), home / "ca.pem"
    authority.write_text(signer.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*signer.write(home, "server", "127.0.0.1"))
    with _Server(("127.0.0.1", 0), _handler(folder)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        told = server.told = HttpsServer(f"https://127.0.0.1:{server.server_port}", authority)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield told
        finally:
            server.shutdown()


def _handler(folder: Path) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes) -> None:
            login = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
            if login:
                assert isinstance(self.server, _Server)
                self.server.told.logins.append(login)
            if self.path.startswith("/private/") and login.partition(":")[2] != TOKEN:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            headers, _, content = self._backend(body).partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in headers.decode().splitlines())
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for name, value in {**fields, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _backend(self, body: bytes) -> bytes:
            path, _, query = self.path.partition("?")
            variables = {
                "GIT_PROJECT_ROOT": str(folder),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "REMOTE_ADDR": "127.0.0.1",
            }
            command = ["git", "http-backend"]
            environment = {**os.environ, **variables}
            # Its status is that of the program that answered, also where it answered that there is no such commit.
            return subprocess.run(command, input=body, env=environment, stdout=subprocess.PIPE, check=False).stdout

    return Handler
