"""Settings of PostgreSQL, proved by PostgreSQL itself before a server in use gets them."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible.module_utils.pgprefect.core.problems import Problem

_START_SECONDS = 60
# A server that only proves its settings answers nobody, archives nothing and logs where we read it.
_ALONE = {
    "listen_addresses": "",
    "archive_command": "/bin/false",
    "archive_library": "",
    "log_destination": "stderr",
    "logging_collector": "off",
    "lc_messages": "C",
}
_NO_FILES = {"config_file": "/dev/null", "hba_file": "/dev/null", "ident_file": "/dev/null"}
_REMEDY = "Correct it in the inventory: \\dconfig+ in psql shows all settings, and pg_settings what they may be."


def setting_problems(variable: str, version: str, settings: Mapping[str, Any], file: str) -> Iterator[Problem]:
    """Yield the settings that the installed PostgreSQL of this major version refuses; none if it is not installed.

    ``file`` is where they are in use: those that it has already are not proved again.
    """
    programs = f"/usr/lib/postgresql/{version}/bin"
    texts = {name: str(value) for name, value in settings.items()}
    if not os.path.exists(f"{programs}/postgres") or _in_use(texts, file):
        return
    problems = [problem for name, value in texts.items() for problem in _refused(variable, programs, name, value)]
    yield from problems or _start_problems(variable, programs, texts)


def line(name: str, value: str) -> str:
    """Return a setting as a line of PostgreSQL's file, as the role writes it."""
    return f"{name} = '" + value.replace("'", "''") + "'"


def _in_use(settings: Mapping[str, str], file: str) -> bool:
    if not os.path.exists(file):
        return not settings
    with open(file, encoding="utf-8") as stream:
        return {line(name, value) for name, value in settings.items()} <= set(stream.read().splitlines())


def _refused(variable: str, programs: str, name: str, value: str) -> Iterator[Problem]:
    """Yield a problem if PostgreSQL does not know a setting, or not with this value."""
    given = [f"-c{key}={text}" for key, text in {**_NO_FILES, name: value}.items()]
    # With -C first it starts nothing, so root may call it.
    done = _run([f"{programs}/postgres", "-C", "max_connections", "--data-directory=/", *given])
    if done.returncode:
        yield Problem(
            "setting_refused",
            object=f"setting {name}",
            message=f"{variable}.{name} is {value[:80]!r}, which PostgreSQL refuses: {_reason(done.stderr)}.",
            remedy=_REMEDY,
        )


def _start_problems(variable: str, programs: str, settings: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a problem if a throwaway server does not start with the settings: a library is missing, two contradict."""
    folder = tempfile.mkdtemp(prefix="ansible-prefect-settings.", dir="/var/tmp")
    data = f"{folder}/data"
    as_postgres = ["runuser", "--user=postgres", "--"]
    try:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        made = _run([*as_postgres, f"{programs}/initdb", "--no-sync", "--auth=reject", f"--pgdata={data}"])
        if made.returncode:
            return  # no space, for instance, of which the settings are not to blame
        with open(f"{data}/postgresql.conf", "w", encoding="utf-8") as stream:
            alone = {**_ALONE, "unix_socket_directories": folder}
            stream.writelines(line(name, value) + "\n" for name, value in {**settings, **alone}.items())
        log = f"{folder}/log"
        start = [f"{programs}/pg_ctl", "start", f"--pgdata={data}", f"--log={log}", f"--timeout={_START_SECONDS}"]
        # pg_ctl reads the state from the server's own file, so that a server that refuses everybody is ready, too.
        if _run([*as_postgres, *start]).returncode:
            with open(log, encoding="utf-8", errors="replace") as stream:
                reason = _reason(stream.read())
            yield Problem(
                "settings_refused",
                object=f"settings {', '.join(settings)}",
                message=f"{variable}: PostgreSQL does not start with {', '.join(settings)}: {reason}.",
                remedy=_REMEDY,
            )
        else:
            _run([*as_postgres, f"{programs}/pg_ctl", "stop", f"--pgdata={data}", "--mode=immediate"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd="/",
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _reason(log: str) -> str:
    """Return what PostgreSQL says is wrong, from its messages."""
    found = re.findall(r"(?:FATAL|HINT|ERROR|PANIC): +(.*?)\.?$", log, re.MULTILINE)
    return ". ".join(found) or " ".join(log.split())[-300:]
