"""Forms of values: what a number, a name, a path or a schedule must look like."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from croniter import croniter
from dateutil.rrule import rrulestr
from pgprefect.schema.declaration import name_fault

_FLOWS_BYTES = 20 * 1024**2
_JOINERS = "\u200c\u200d"  # of scripts and emoji
_SHOWN = 80  # characters of a wrong value
_REASON = 200  # of why it is wrong, which may repeat the value
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTPE]?)")
_MEGABYTE = 1024**2
_DURATION = re.compile(r"P(?=\d|T\d)(\d{1,6}W)?(\d{1,6}D)?(T(?=\d)(\d{1,6}H)?(\d{1,6}M)?(\d{1,6}S)?)?")
_CRON_FIELD = r"(\*|\d+(-\d+)?)"
# A step without a range is no cron(5), although some parsers read it.
_CRONTAB = re.compile(rf"({_CRON_FIELD}|(\*|\d+-\d+)/\d+)(,({_CRON_FIELD}|(\*|\d+-\d+)/\d+))*")
# Directories below which no other one may become ours: those of the system, of PostgreSQL, and what we write ourselves.
_NEVER_BELOW = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var/run",
    "/var/tmp", "/var/lib/dpkg", "/var/lib/postgresql", "/var/lib/systemd",
    "/opt/prefect", "/var/lib/pgprefect", "/var/lib/postgresql_pitr", "/var/lib/prefect", "/var/lib/prefect-worker",
    "/var/lib/prefect_backup",
)  # fmt: skip

Check = Callable[[Any], None]


def _any(_value: Any) -> None:
    """Take every value."""


@dataclass(frozen=True)
class Form:
    """What a value must be. ``check`` raises ValueError with a reason, which may be empty, for any other value.

    ``empty`` allows an empty text, which says that there is none; ``null`` allows null; ``lines`` allows ends of lines
    and tabs; the value of a ``secret`` is never shown.
    """

    allowed: str
    check: Check = _any
    empty: bool = False
    null: bool = False
    lines: bool = False
    secret: bool = False

    def or_empty(self) -> Form:
        """Return the same form, which an empty text has too."""
        return replace(self, allowed=f"{self.allowed}, or empty", empty=True)

    def faults(self, path: str, value: Any) -> Iterator[str]:
        """Yield why a value does not have the form; a text with control characters never does."""
        try:
            if not (self.empty and value == ""):
                refuse_control_characters(value, self.lines)
                self.check(value)
        except (ValueError, TypeError) as error:
            yield refusal(path, value, self.allowed, str(error), self.secret)


@dataclass(frozen=True)
class Entries(Form):
    """A mapping whose keys and values have forms."""

    key: Form = Form("a name")
    value: Form = Form("a value")

    def faults(self, path: str, value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield refusal(path, value, self.allowed, "", self.secret)
            return
        for name, entry in value.items():
            yield from self.key.faults(f"{path}, its key", name)
            inner = f"{path}.{name}" if str(name).isprintable() else f"{path}[{str(name)!r}]"
            if entry is None:
                yield refusal(inner, None, self.value.allowed, "", self.secret)
            else:
                yield from self.value.faults(inner, entry)


def refusal(path: str, value: Any, allowed: str, reason: str = "", secret: bool = False) -> str:
    """Return the sentence by which a value is refused."""
    shown = "" if secret else f" is {_shown(value)}, but it"
    because = f" ({reason[:_REASON]})" if reason and not (secret and value and str(value) in reason) else ""
    remedy = "correct it in the inventory" + (", or remove it to have the default." if value is None else ".")
    return f"{path}{shown} must be {allowed}{because}: {remedy}"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    text = repr(value if isinstance(value, (bool, int, float, Mapping)) or _is_list(value) else str(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def refuse_control_characters(value: Any, lines: bool = False) -> None:
    """Raise ValueError for a control character anywhere in a value; with ``lines`` ends of lines and tabs are none."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            refuse_control_characters(name)
            refuse_control_characters(entry, lines)
    elif _is_list(value):
        for entry in value:
            refuse_control_characters(entry, lines)
    elif isinstance(value, str):
        for character in value:
            if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and not (lines and character in "\n\t"):
                raise ValueError(f"it has a control character, {character!r}")
            if unicodedata.category(character) == "Cf" and not (lines and character in _JOINERS):
                raise ValueError(f"it has an invisible character, {character!r}")


def whole(low: int, high: int) -> Form:
    """Return the form of a whole number in a range."""

    def check(value: Any) -> None:
        text = str(value)
        if isinstance(value, (bool, float)) or not re.fullmatch(r"-?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError

    return Form(f"a whole number from {low} to {high}", check)


def number(low: float, high: float) -> Form:
    """Return the form of a number above the first, up to the second."""

    def check(value: Any) -> None:
        if isinstance(value, bool) or not str(value).isascii() or not low < float(value) <= high:
            raise ValueError

    return Form(f"a number above {low:g}, up to {high:g}", check)


def one_of(*values: str) -> Form:
    """Return the form of a text that is one of these."""
    return matching("|".join(map(re.escape, values)), f"one of {', '.join(values)}")


def matching(pattern: str, allowed: str) -> Form:
    """Return the form of a text that a regular expression matches as a whole."""

    def check(value: Any) -> None:
        if not re.fullmatch(pattern, str(value)):
            raise ValueError

    return Form(allowed, check)


def _boolean(value: Any) -> None:
    if not isinstance(value, bool) and str(value).lower() not in ("yes", "no", "true", "false", "on", "off", "1", "0"):
        raise ValueError


def text(value: Any) -> None:
    """Raise ValueError for what is no text, or an empty one."""
    _scalar(value)
    if not str(value).strip():
        raise ValueError("it is empty")


def identifier(kind: str, forbidden: str = "") -> Form:
    """Return the form of a name of PostgreSQL's, of a kind such as role; none of the forbidden characters is in it."""
    without = f", without {' '.join(forbidden)}" if forbidden else ""

    def check(value: Any) -> None:
        text(value)
        if fault := name_fault(kind, str(value)):
            raise ValueError(fault)
        if found := sorted(set(str(value)) & set(forbidden)):
            raise ValueError(f"it has {' '.join(found)}")

    return Form(f"a name of PostgreSQL's for a {kind}, of 1 to 63 bytes{without}", check)


def _network(value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError("it is no text")
    if "%" in value:
        raise ValueError("a zone does not belong to a network")
    ip_network(value)  # refuses bits of a host, too


def _address(value: Any) -> None:
    if not isinstance(value, str) or "%" in value:
        raise ValueError("it is no text" if not isinstance(value, str) else "a zone is not allowed")
    ip_address(value)


def _host(value: Any) -> None:
    text = str(value)
    if re.fullmatch(r"[0-9.]+|.*:.*", text):
        _address(text)
    elif not _HOST_NAME.fullmatch(text):
        raise ValueError("it is no host name")


def _bind_address(value: Any) -> None:
    if value != "localhost":
        _address(value)


def _url(value: Any) -> None:
    text = str(value)
    parts = urlsplit(text)  # raises ValueError for brackets that do not fit
    if parts.scheme not in ("http", "https") or re.search(r"\s", text):
        raise ValueError("it does not begin with http:// or https://" if parts.scheme != "http" else "it has a blank")
    _host(parts.hostname or "")
    if parts.port == 0 or parts.netloc.endswith(":"):  # the property raises ValueError for what is no port
        raise ValueError("it has no port from 1 to 65535")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("a user, a query or a fragment does not belong to it")


def _site_url(value: Any) -> None:
    _url(value)
    parts = urlsplit(str(value))
    if parts.path.strip("/") and parts.scheme == "http" and not parts.port:
        raise ValueError("a path does not belong to it, because each tenant's port is added: set ui_url of the tenants")


def _api_url(value: Any) -> None:
    _url(value)
    if not str(value).rstrip("/").endswith("/api"):
        raise ValueError("it does not end with /api")


def _absolute(value: Any) -> None:
    text = str(value)
    if not text.startswith("/") or text.startswith("//"):
        raise ValueError("it is not absolute")
    if ".." in PurePosixPath(text).parts:
        raise ValueError("it has a part ..")


def _file(value: Any) -> None:
    _absolute(value)
    if str(value).endswith("/"):
        raise ValueError("it is a directory")


def _service_file(value: Any) -> None:
    _file(value)
    # Units see nothing there: ProtectHome and PrivateTmp.
    if any(PurePosixPath(str(value)).is_relative_to(folder) for folder in ("/home", "/root", "/tmp", "/var/tmp")):
        raise ValueError("the services cannot see that directory")


def is_shared(path: PurePath) -> bool:
    """Return whether a directory holds what several programs have: the root, one right below it, or one of /var."""
    return len(path.parts) <= 2 or str(path.parent) == "/var"


def own_directory(value: Any) -> None:
    """Raise ValueError for a directory that is shared, or not ours to give away."""
    _absolute(value)
    path = PurePosixPath(str(value))
    if is_shared(path) or any(path.is_relative_to(folder) for folder in _NEVER_BELOW):
        raise ValueError("the system or other programs use that one")


def _flows_folder(value: Any) -> None:
    folder = Path(str(value))
    if not folder.is_absolute():
        raise ValueError("it is not absolute")
    if not folder.is_dir():
        raise ValueError("there is no such folder on this machine")
    real = folder.resolve()
    if is_shared(real) or any(real.is_relative_to(system) for system in ("/dev", "/lib", "/proc", "/sys", "/usr/lib")):
        raise ValueError("that is a folder of the system")
    files = [file for file in folder.rglob("*") if _is_copied(file.relative_to(folder)) and file.is_file()]
    if not any(file.suffix == ".py" for file in files):
        raise ValueError("no flow (.py) is in it, and what is not in it is removed from the hosts")
    if (size := sum(file.stat().st_size for file in files)) > _FLOWS_BYTES:
        raise ValueError(
            f"it has {size // _MEGABYTE} MB, and at most {_FLOWS_BYTES // _MEGABYTE} are copied to the hosts"
        )
    for file in files:
        try:
            file.read_text(encoding="utf-8")
        except ValueError:
            raise ValueError(f"{file.relative_to(folder)} is no text in UTF-8, and only text is copied") from None


def _is_copied(path: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _controller_path(value: Any) -> None:
    if not str(value).startswith(("/", "~")):
        raise ValueError("it is not absolute")


def _controller_file(value: Any) -> None:
    _file(value)
    if not Path(str(value)).is_file():
        raise ValueError("there is no such file on this machine")


def _size(value: Any) -> None:
    text = str(value)
    if text == "infinity":
        return
    if percent := re.fullmatch(r"(\d{1,3})%", text):
        if not 1 <= int(percent[1]) <= 100:
            raise ValueError("it is not from 1% to 100%")
        return
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError("it is no size of systemd's")
    size = float(found[1]) * 1024 ** " KMGTPE".index(found[2] or " ")
    if not 256 * _MEGABYTE <= size < 2**63:
        raise ValueError("it is not from 256M to 8E")


def _crontab(value: Any) -> None:
    fields = str(value).split(" ")
    if len(fields) != 5:
        raise ValueError(f"it has {len(fields)} fields")
    for field in fields:
        if not _CRONTAB.fullmatch(field):
            raise ValueError(f"{field!r} is no field of cron(5)")
        for low, high in re.findall(r"(\d+)-(\d+)", field):
            if int(low) > int(high):
                raise ValueError(f"{low}-{high} goes backwards")
    croniter(str(value))  # knows the range of each field


def _prefect_cron(value: Any) -> None:
    fields = str(value).split()
    if len(fields) != 5 or {"r", "h"} & {field.lower() for field in fields}:
        raise ValueError(f"it has {len(fields)} fields" if len(fields) != 5 else "R and H are no fields")
    croniter(str(value))


def _rrule(value: Any) -> None:
    if len(str(value)) > 6500:
        raise ValueError("it has more than 6500 characters")
    try:
        rrulestr(str(value), dtstart=datetime(2020, 1, 1))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(str(error)) from error


@cache
def _timezones() -> set[str]:
    return available_timezones()


def _timezone(value: Any) -> None:
    if str(value) not in _timezones():
        raise ValueError


def _duration(value: Any) -> None:
    text = str(value)
    if not isinstance(value, str) or not _DURATION.fullmatch(text):
        raise ValueError("it is no duration of ISO 8601")
    if not any(int(part) for part in re.findall(r"\d+", text)):
        raise ValueError("nothing would be kept")


def _moment(value: Any) -> None:
    if datetime.fromisoformat(str(value)).tzinfo is None:
        raise ValueError("it has no time zone")


def _prefect_name(value: Any) -> None:
    text(value)
    if found := sorted(set(str(value)) & set("/%&><")):
        raise ValueError(f"it has {' '.join(found)}")
    if len(str(value)) > 200:
        raise ValueError("it has more than 200 characters")


def _pool_name(value: Any) -> None:
    _prefect_name(value)
    if str(value).lower().startswith("prefect"):
        raise ValueError("the server reserves names that begin with prefect")


def _scalar(value: Any) -> None:
    if isinstance(value, Mapping) or _is_list(value):
        raise ValueError("it is no single value")


def _mapping(value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ValueError("it is no mapping")
    try:
        json.dumps(value, allow_nan=False, default=str)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"JSON cannot have it: {error}") from error


def _name_of_any_kind(value: Any) -> None:
    text(value)
    if len(str(value)) > 200:
        raise ValueError("it has more than 200 characters")


BOOLEAN = Form("true or false", _boolean)
TEXT = Form("a text", text)
PROSE = Form("a text, which may have several lines", lines=True)
DATA = Form("a mapping of names and values", _mapping, lines=True)
SCALAR = Form("a single value", _scalar)
SECRET = Form("a text without control characters", text, secret=True)
ASCII_SECRET = replace(matching(r"[!-~]{1,1000}", "a text of ASCII characters without blanks"), secret=True)
PRIVATE_KEY = replace(
    matching(r"(?s)\s*-----BEGIN [A-Z ]*PRIVATE KEY-----.*", "a private key as ssh-keygen makes it"),
    secret=True,
    lines=True,
)
CREDENTIALS = Form("a private key of ssh, or a whole rclone.conf", text, lines=True, secret=True)
NETWORK = Form("an IP address and the length of its network's prefix, as 192.0.2.64/28 or 2001:db8::/48", _network)
ADDRESS = Form("an IP address, as 192.0.2.10 or 2001:db8::10", _address)
BIND_ADDRESS = Form("an IP address of the host, 0.0.0.0 or :: for all of them, or localhost", _bind_address)
HOST = Form("a host name or an IP address", _host)
URL = Form("an address as http://flows.example.com or https://flows.example.com:8443", _url)
SITE_URL = replace(URL, check=_site_url)
API_URL = Form("an address as https://flows.example.com/api", _api_url)
FILE = Form("the absolute path of a file, without ..", _file)
SERVICE_FILE = Form("the absolute path of a file that services can read, as /etc/ssl/certs/ca.pem", _service_file)
DIRECTORY = Form("the absolute path of a directory, without ..", _absolute)
OWN_DIRECTORY = Form("the absolute path of a directory of its own, as /var/backups/prefect", own_directory)
FLOWS_FOLDER = Form("the absolute path of a folder of this machine with flows (.py) in it", _flows_folder)
CONTROLLER_FILE = Form("the absolute path of a file of this machine", _controller_file)
CONTROLLER_PATH = Form("the absolute path of a directory of this machine", _controller_path)
SIZE = Form("a size of systemd's from 256M on, as 2G or 50%, or infinity", _size)
CRONTAB = Form(
    'five fields of cron(5), as "0 2 * * *" (minute 0-59, hour 0-23, day 1-31, month 1-12, day of the week 0-7)',
    _crontab,
)
PREFECT_CRON = Form(
    'five fields of cron, as "30 17 * * 1-5" (minute 0-59, hour 0-23, day 1-31, month 1-12, day of the week 0-7)',
    _prefect_cron,
)
RRULE = Form("a recurrence rule of RFC 5545, as FREQ=DAILY;BYHOUR=6", _rrule, lines=True)
TIMEZONE = Form("a time zone's name, as Europe/Berlin", _timezone)
DURATION = Form("a duration of ISO 8601 above zero, as P90D or PT36H", _duration)
MOMENT = Form("a time with its time zone, as 2026-01-31 15:04:05+00:00", _moment)
PREFECT_NAME = Form("a name of at most 200 characters, without / % & > <", _prefect_name)
NAME_OF_ANY_KIND = Form("a name of at most 200 characters", _name_of_any_kind)
POOL_NAME = Form("a name of at most 200 characters, without / % & > <, that does not begin with prefect", _pool_name)
NAME = matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "a name of letters, digits, '_', '.' and '-'")
