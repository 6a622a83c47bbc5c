"""HTTP: a client of Prefect's REST API, and waiting until a service answers."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import time
import urllib.request
import uuid
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.error import HTTPError

from .errors import ProblemError
from .problems import Problem

PAGE = 200  # the most that Prefect's filters return at once
_BUSY = (429, 503)  # how a server answers that cannot reach its database at the moment
_PAUSES = (0.5, 1, 2, 4)  # seconds between the attempts to reach a busy server
_ADDRESS = "Set api_url to the API's address, which ends with /api."

CA_FILE = "PREFECT_API_SSL_CERT_FILE"  # Prefect's own setting, which the units of workers and flows have

# The options of an Ansible module that uses Prefect's API.
API_ARGUMENTS: dict[str, dict[str, Any]] = {
    "api_url": {"type": "str", "required": True},
    "api_auth_string": {"type": "str", "no_log": True, "default": ""},
    "api_timeout": {"type": "int", "default": 30},
}


class ApiError(ProblemError):
    """The API did not do what it was asked for."""


class ApiRefused(ApiError):
    """The API answered with an error, whose HTTP status is ``status``."""

    def __init__(self, problem: Problem, status: int) -> None:
        super().__init__(problem)
        self.status = status


class ApiUnreachable(ApiError):
    """Nothing answers HTTP at the API's address."""


class PrefectApi:
    """A client of one server's REST API; ``timeout`` is in seconds, for each read. Its methods raise ApiError.

    ``ca_file`` has the authorities that may have signed the server's certificate; see ``get``.
    """

    def __init__(self, url: str, auth_string: str = "", timeout: float = 30, ca_file: str = "") -> None:
        self.url = url.rstrip("/")
        self._ca_file = ca_file
        self._user = auth_string.partition(":")[0]
        self._timeout = timeout
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if auth_string:
            self._headers["Authorization"] = "Basic " + base64.b64encode(auth_string.encode()).decode()

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> PrefectApi:
        """Make a client of the values of API_ARGUMENTS."""
        return cls(arguments["api_url"], arguments["api_auth_string"], arguments["api_timeout"])

    def call(self, method: str, path: str, body: Any = None, pauses: tuple[float, ...] = _PAUSES) -> Any:
        """Send a request and return the JSON of the answer, None if it is empty.

        A busy server is asked again after each of the pauses.
        """
        try:
            return self._send(method, path, body)
        except HTTPError as error:
            detail = _detail(error)
            if error.code == 403 and "CSRF" in detail and "Prefect-Csrf-Token" not in self._headers:
                self._fetch_csrf_token()
            elif error.code in _BUSY and pauses:
                time.sleep(pauses[0])
                pauses = pauses[1:]
            else:
                raise ApiRefused(self._refusal(method, path, error.code, detail), error.code) from error
        return self.call(method, path, body, pauses)

    def filter(self, path: str, **filters: Any) -> list[dict[str, Any]]:
        """Return everything that a ``/filter`` endpoint finds, read page by page."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("POST", path, {**filters, "limit": PAGE, "offset": len(found)})
            found.extend(page)
            if len(page) < PAGE:
                return found

    def _fetch_csrf_token(self) -> None:
        """Get the token that a server with protection against cross-site requests wants in each request."""
        client = str(uuid.uuid4())
        token = self.call("GET", "/csrf-token?client=" + client)
        self._headers.update({"Prefect-Csrf-Token": token["token"], "Prefect-Csrf-Client": client})

    def _send(self, method: str, path: str, body: Any) -> Any:
        url = self.url + path
        content = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(url, content, self._headers, method=method)
            answer = _send(request, self._timeout, self._ca_file)
        except HTTPError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            message = f"No Prefect API answers at {self.url} ({reason})."
            remedy = (
                "Check api_url, and the server's unit on its host: systemctl status 'prefect-server@*'; "
                "journalctl -u 'prefect-server@*'"
            )
            if isinstance(reason, ssl.SSLCertVerificationError):
                remedy = "Correct api_url, or set prefect_api_ca_file to the authority of that address's certificate."
            raise ApiUnreachable(self._problem("api_not_ready", message, remedy)) from error
        try:
            return json.loads(answer) if answer else None
        except ValueError as error:
            message = f"{method} {url} answered with something that is not JSON."
            raise ApiError(self._problem("api_not_json", message, _ADDRESS)) from error

    def _refusal(self, method: str, path: str, status: int, detail: str) -> Problem:
        who = f"user {self._user!r}" if self._user else "without authentication"
        message = f"{method} {self.url + path} ({who}) was refused with HTTP {status}: {detail.rstrip('.')}."
        remedy = "Correct what the server complains about."
        if status == 401:
            remedy = "Set api_auth_string to the PREFECT_SERVER_API_AUTH_STRING that this server was started with."
        elif status == 404 and detail == "Not Found":
            remedy = _ADDRESS
        elif status >= 500:
            remedy = "See the server's journal: journalctl -u 'prefect-server@*'"
        return self._problem("api_refused", message, remedy)

    def _problem(self, code: str, message: str, remedy: str) -> Problem:
        return Problem(code, object=f"api {self.url}", message=message, remedy=remedy)


def get(url: str, timeout: float, ca_file: str = "") -> bytes:
    """Return what the address answers; ``timeout`` is in seconds, for each read.

    A server with TLS proves who it is by a certificate of the authorities in ``ca_file``, else of those that the
    environment names for Prefect, else of the system's. Raises OSError or http.client.HTTPException if it does not
    answer with success.
    """
    return _send(urllib.request.Request(url), timeout, ca_file)


def is_ready(url: str) -> bool:
    """Return whether the address answers with success within 5 seconds."""
    try:
        get(url, timeout=5)
    except (OSError, http.client.HTTPException):
        return False
    return True


def _send(request: urllib.request.Request, timeout: float, ca_file: str = "") -> bytes:
    trusted = (ca_file or os.environ.get(CA_FILE, "")) if request.type == "https" else None
    with _opener(trusted).open(request, timeout=timeout) as response:
        return bytes(response.read())


@cache
def _opener(ca_file: str | None) -> urllib.request.OpenerDirector:
    """Return what opens addresses, with TLS unless the file is None. Raises OSError for a file that cannot be read."""
    # The services are on this host or on its own network, so a proxy of the environment must not be used.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if ca_file is not None:
        context = ssl.create_default_context(cafile=ca_file or None)
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _detail(error: HTTPError) -> str:
    """Return what the server says is wrong, in one line."""
    text = error.read().decode(errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        return " ".join(text.split())[:500] or str(error.reason)
    if not isinstance(content, dict):
        return str(content)
    # Prefect's own validation errors are a list of places and messages.
    problems = content.get("exception_detail")
    if isinstance(problems, list):
        return "; ".join(f"{'.'.join(map(str, p.get('loc', [])[1:]))}: {p.get('msg')}" for p in problems)
    return str(content.get("detail") or content.get("exception_message") or content)
