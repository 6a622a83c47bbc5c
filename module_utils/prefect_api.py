"""A small client of Prefect's REST API, and the plan that its modules make before they change anything."""

from __future__ import annotations

import base64
import json
import time
import uuid
from http.client import HTTPException
from typing import Any, Callable, NamedTuple
from urllib.error import HTTPError

from ansible.module_utils.urls import ConnectionError as UrlsConnectionError
from ansible.module_utils.urls import open_url

PAGE = 200  # the most that Prefect's filters return at once
BUSY = (429, 503)  # what a server says that cannot reach its database just now
PAUSES = (0.5, 1, 2, 4)

CONNECTION_ARGUMENTS: dict[str, Any] = {
    "api_url": {"type": "str", "required": True},
    "api_auth_string": {"type": "str", "no_log": True, "default": ""},
    "api_timeout": {"type": "int", "default": 30},
}


class PrefectError(Exception):
    """What could not be done, in words for the operator."""


class PrefectUnreachable(PrefectError):
    """Nothing that answers HTTP was reached."""


class PrefectApi:
    """Requests with JSON, the server's authentication, and errors that say who asked for what and what to do."""

    def __init__(self, url: str, auth_string: str = "", timeout: int = 30) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.user = auth_string.partition(":")[0] if auth_string else ""
        self.headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if auth_string:
            self.headers["Authorization"] = "Basic " + base64.b64encode(auth_string.encode()).decode()

    def call(self, method: str, path: str, body: Any = None, pauses: tuple[float, ...] = PAUSES) -> Any:
        """One request, again while the server is busy; its answer's JSON, or None where the answer is empty."""
        try:
            return self._send(method, path, body)
        except HTTPError as error:
            detail = _detail(error)
            if error.code == 403 and "CSRF" in detail and "Prefect-Csrf-Token" not in self.headers:
                self._fetch_csrf_token()
            elif error.code in BUSY and pauses:
                time.sleep(pauses[0])
                pauses = pauses[1:]
            else:
                raise PrefectError(self._refusal(method, path, error.code, detail)) from error
        return self.call(method, path, body, pauses)

    def filter(self, path: str, **filters: Any) -> list[dict[str, Any]]:
        """All that a `/filter` endpoint knows, page by page."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("POST", path, {**filters, "limit": PAGE, "offset": len(found)})
            found.extend(page)
            if len(page) < PAGE:
                return found

    def _fetch_csrf_token(self) -> None:
        """Once, when a server that protects itself against cross-site requests first asks for it."""
        client = str(uuid.uuid4())
        token = self.call("GET", "/csrf-token?client=" + client)
        self.headers.update({"Prefect-Csrf-Token": token["token"], "Prefect-Csrf-Client": client})

    def _send(self, method: str, path: str, body: Any) -> Any:
        try:
            # The API is on this host or on its own network: a proxy of the environment has no part in it.
            answer = open_url(
                self.url + path,
                method=method,
                headers=self.headers,
                data=None if body is None else json.dumps(body),
                timeout=self.timeout,
                use_proxy=False,
            )
            content = answer.read()
        except HTTPError:
            raise
        except (OSError, HTTPException, UrlsConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            raise PrefectUnreachable(
                f"No Prefect API answers at {self.url} ({reason}). Check api_url, and the server's unit on its host: "
                "systemctl status 'prefect-server@*'; journalctl -u 'prefect-server@*'."
            ) from error
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise PrefectError(
                f"{method} {self.url + path} answered with something that is not JSON. "
                "api_url must be the API's address, which ends with /api."
            ) from error

    def _refusal(self, method: str, path: str, status: int, detail: str) -> str:
        who = f"user {self.user!r}" if self.user else "without authentication"
        advice = ""
        if status == 401:
            advice = " api_auth_string must be the PREFECT_SERVER_API_AUTH_STRING that this server was started with."
        elif status == 404 and detail == "Not Found":
            advice = " api_url must be the API's address, which ends with /api."
        elif status >= 500:
            advice = " See the server's journal: journalctl -u 'prefect-server@*'."
        return f"{method} {self.url + path} ({who}) was refused with HTTP {status}: {detail.rstrip('.')}.{advice}"


class Change(NamedTuple):
    action: str
    request: Callable[[], Any]

    def apply(self) -> None:
        try:
            self.request()
        except PrefectError as error:
            raise PrefectError(f"Could not {self.action}. {error}") from error


class Plan:
    """The one source for `changed`, `diff`, the list of actions, and what is executed."""

    # A parameters' schema is long and follows from the version, which is shown.
    HIDDEN = frozenset({"parameter_openapi_schema"})

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    def create(self, what: str, after: dict[str, Any], request: Callable[[], Any]) -> None:
        self.after[what] = after
        self.changes.append(Change(f"create {what}", request))

    def update(
        self, what: str, current: dict[str, Any], wanted: dict[str, Any], request: Callable[[dict[str, Any]], Any]
    ) -> None:
        """Compare the wanted fields, and only them; `request` is given those that differ."""
        differing = {name: value for name, value in wanted.items() if current.get(name) != value}
        if not differing:
            return
        self.before[what] = {name: current.get(name) for name in differing}
        self.after[what] = differing
        self.changes.append(Change(f"update {what}: {', '.join(sorted(differing))}", lambda: request(differing)))

    def delete(self, what: str, before: dict[str, Any], request: Callable[[], Any]) -> None:
        self.before[what] = before
        self.changes.append(Change(f"delete {what}", request))

    def apply(self) -> None:
        for change in self.changes:
            change.apply()

    def result(self) -> dict[str, Any]:
        return {
            "changed": bool(self.changes),
            "actions": [change.action for change in self.changes],
            "diff": {"before": self._shown(self.before), "after": self._shown(self.after)},
        }

    def _shown(self, side: dict[str, Any]) -> dict[str, Any]:
        return {what: {k: v for k, v in fields.items() if k not in self.HIDDEN} for what, fields in side.items()}


def name_problems(what: str, name: str) -> list[str]:
    if name.strip() and not set(name) & set("/%&><"):
        return []
    return [f"{what}: a name must not be empty or contain one of the characters / % & > <."]


def duplicates(values: list[str]) -> list[str]:
    return sorted({value for value in values if values.count(value) > 1})


def _detail(error: HTTPError) -> str:
    """What the server says is wrong, in one line."""
    text = error.read().decode(errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        return " ".join(text.split())[:500] or str(error.reason)
    if not isinstance(content, dict):
        return str(content)
    # Prefect's own validation errors come as a list of places and messages.
    problems = content.get("exception_detail")
    if isinstance(problems, list):
        return "; ".join(f"{'.'.join(map(str, p.get('loc', [])[1:]))}: {p.get('msg')}" for p in problems)
    return str(content.get("detail") or content.get("exception_message") or content)
