"""Steps that Prefect runs around its own git_clone, by which a flow run logs in to the repository of its code.

Prefect's step puts a token into the repository's address: it stands in git's arguments, which everybody on the host can
read, and in the clone's `.git/config`. It knows no keys of ssh. So git gets both by variables of the run's process.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from urllib.parse import urlsplit

# What git asks for a login to one server; the token is in its environment, not in its arguments.
_HELPER = (
    '!f() { if test "$1" = get; then printf "username=%s\\npassword=%s\\n" '
    '"$PGPREFECT_GIT_USERNAME" "$PGPREFECT_GIT_TOKEN"; fi; }; f'
)
_before: dict[str, str | None] = {}  # the variables of this process that the login replaced


def log_in_to_git(
    repository: str, username: str = "", access_token: str = "", key_file: str = "", known_hosts_file: str = ""
) -> dict[str, str]:
    """Let git in this process, and in what it starts, log in to the server of a repository."""
    added = login_environment(
        repository,
        os.environ,
        username=username,
        access_token=str(access_token),
        key_file=key_file,
        known_hosts_file=known_hosts_file,
    )
    _before.update({name: os.environ.get(name) for name in added})
    os.environ.update(added)
    return {}


def log_out_of_git() -> dict[str, str]:
    """Take the login out of the environment again, so that the flow does not hand it on."""
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _before.clear()
    return {}


def login_environment(
    repository: str,
    environment: Mapping[str, str],
    *,
    username: str = "",
    access_token: str = "",
    key_file: str = "",
    known_hosts_file: str = "",
) -> dict[str, str]:
    """Return the variables by which git logs in with a token or a key, beside those of an environment."""
    added = {"GIT_TERMINAL_PROMPT": "0"}
    if key_file:
        added["GIT_SSH_COMMAND"] = ssh_command(key_file, known_hosts_file)
    if access_token:
        parts = urlsplit(repository)
        name = f"credential.{parts.scheme}://{parts.netloc}.helper"
        count = int(environment.get("GIT_CONFIG_COUNT") or 0)
        # The empty one takes away what the host's configuration names, which could store the token.
        for number, value in enumerate(("", _HELPER), count):
            added.update({f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value})
        added["GIT_CONFIG_COUNT"] = str(count + 2)
        added.update(PGPREFECT_GIT_USERNAME=username, PGPREFECT_GIT_TOKEN=access_token)
    return added


def ssh_command(key_file: str, known_hosts_file: str) -> str:
    """Return how git calls ssh: with this key alone, and only to a host whose key is known."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": "30",
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": key_file,  # by -i it would fall back to others where the file is missing
        "ServerAliveInterval": "30",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "UserKnownHostsFile": known_hosts_file,
    }
    return shlex.join(["ssh", "-F", "none", *(f"-o{name}={value}" for name, value in options.items())])
