"""The cluster that a host has already: whose databases, settings and access rules are beside ours."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible.module_utils.pgprefect.core.prefect import MADE_HERE, STANDBY_SLOT

# What Debian's package writes into a new cluster's postgresql.conf, of the settings that the role sets.
_PACKAGE_SETTINGS = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "ssl": "on",
    "ssl_cert_file": "/etc/ssl/certs/ssl-cert-snakeoil.pem",
    "ssl_key_file": "/etc/ssl/private/ssl-cert-snakeoil.key",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
# Patroni's, and what the site's own says. It renames the package's postgresql.conf, and writes one of its own instead.
_PATRONI_FILE = "/etc/patroni/config.yml"
_PATRONI_MARK = "# Managed by ansible-prefect"
_RENAMED = "postgresql.base.conf"
_MANAGERS = {"patroni": "Patroni", "repmgrd": "repmgr", "pg_autoctl": "pg_auto_failover", "stolon-keeper": "Stolon"}

# Others may depend on a database that existed before and that PUBLIC may enter (Catalog.is_exclusive asks the same).
_LOOK = """
SELECT json_build_object(
    'standby', pg_is_in_recovery(),
    'slots', (SELECT coalesce(json_agg(slot_name ORDER BY slot_name), '[]') FROM pg_replication_slots
              WHERE starts_with(slot_name, :'standby_slot')),
    'databases', (SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database
                  WHERE NOT datistemplate AND datname NOT IN ('postgres', :'database')),
    'settings', (SELECT coalesce(json_agg(json_build_array(name, setting, sourcefile)), '[]')
                 FROM (SELECT DISTINCT ON (name) name, setting, sourcefile FROM pg_file_settings
                       WHERE error IS NULL AND sourcefile !~ '/ansible-prefect[^/]*$' AND sourcefile <> :'patroni'
                       ORDER BY name, seqno DESC) AS found),
    'exclusive', coalesce((SELECT coalesce(shobj_description(oid, 'pg_database'), '') LIKE '%' || :'made_here' || '%'
                                  OR NOT EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))
                                                 WHERE grantee = 0 AND privilege_type = 'CONNECT')
                           FROM pg_database WHERE datname = :'database'), true))
"""


@dataclass(frozen=True)
class Cluster:
    """A cluster as it was found.

    ``settings`` are those that somebody else has changed, by name, each with its ``value`` and the ``file`` that has
    it; ``managers`` is other software that runs the cluster. ``exclusive`` says whether only declared roles may enter
    the database, None where the server does not answer. ``port`` is the configured one. ``ours`` says whether the role
    has written settings into it before, ``patroni`` whether the site's Patroni manages it, and ``data`` whether there
    is a data directory with data. A stopped one is a ``standby`` where its data is marked as such. ``disabled`` says
    whether Debian's tools must not start it. ``slots`` are the replication slots of the site's own standbys.
    """

    exists: bool = False
    ours: bool = False
    running: bool = False
    standby: bool = False
    port: int | None = None
    databases: list[str] = field(default_factory=list)
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    managers: list[str] = field(default_factory=list)
    exclusive: bool | None = None
    patroni: bool = False
    data: bool = False
    disabled: bool = False
    slots: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a module does."""
        return asdict(self)


def look(folder: str, database: str) -> Cluster:
    """Look at the cluster whose configuration is in a folder of /etc/postgresql. Changes nothing."""
    patroni = _is_our_patroni()
    if not os.path.exists(f"{folder}/postgresql.conf"):
        return Cluster(managers=managers(), patroni=patroni)
    port, ours = configured_port(folder), os.path.exists(f"{folder}/conf.d/ansible-prefect.conf")
    files = configured(folder, "data_directory", "")
    data, signal = os.path.exists(f"{files}/global/pg_control"), os.path.exists(f"{files}/standby.signal")
    renamed = os.path.exists(f"{folder}/{_RENAMED}")
    written_by_patroni = f"{folder}/postgresql.conf" if renamed else ""
    found = ask(
        port, _LOOK, database=database, made_here=MADE_HERE, standby_slot=STANDBY_SLOT, patroni=written_by_patroni
    )
    seen = Cluster(
        exists=True,
        ours=ours,
        port=port,
        managers=managers(),
        patroni=patroni,
        data=data,
        standby=signal,
        disabled=_is_disabled(folder),
    )
    if found is None:
        return seen
    package = _RENAMED if renamed else "postgresql.conf"
    settings = {
        name: {"value": value, "file": file}
        for name, value, file in found.pop("settings")
        if os.path.basename(file) != package or _PACKAGE_SETTINGS.get(name) != value
    }
    return replace(seen, running=True, settings=settings, **found)


def ask(port: int, question: str, timeout: float = 30, **values: str) -> Any:
    """Ask the server for one JSON value, as its administrator. Returns None where it does not answer, or with an error.

    By psql, which every cluster has: before anything is installed the host's Python may lack a driver.
    """
    command = ["psql", "--no-psqlrc", "--no-align", "--tuples-only", "--quiet", f"--port={port}"]
    command += [f"--variable={name}={value}" for name, value in {"ON_ERROR_STOP": "1", **values}.items()]
    done = subprocess.run(
        [*command, "--dbname=postgres"],
        input=f"SET search_path = pg_catalog; {question};",
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "PGCONNECT_TIMEOUT": "5", "LC_ALL": "C.UTF-8"},
        user="postgres" if os.geteuid() == 0 else None,
        group="postgres" if os.geteuid() == 0 else None,
        extra_groups=[] if os.geteuid() == 0 else None,
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


def configured_port(folder: str) -> int:
    """Return the port in the configuration that PostgreSQL reads, as Debian's tools find it: the last one named."""
    port = configured(folder, "port", "5432")
    return int(port) if port.isdigit() else 5432


def configured(folder: str, name: str, default: str) -> str:
    """Return a setting of one word in the configuration that PostgreSQL reads: the last one named."""
    value = default
    paths = (f"{folder}/{_RENAMED}", f"{folder}/postgresql.conf", *sorted(glob.glob(f"{folder}/conf.d/*.conf")))
    for path in paths:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.partition("#")[0].replace("=", " ").split()
                if len(words) == 2 and words[0].lower() == name:
                    value = words[1].strip("'")
    return value


def _is_disabled(folder: str) -> bool:
    with contextlib.suppress(OSError), open(f"{folder}/start.conf", encoding="utf-8", errors="replace") as file:
        return any(line.split()[:1] == ["disabled"] for line in file)
    return False


def _is_our_patroni() -> bool:
    with contextlib.suppress(OSError), open(_PATRONI_FILE, encoding="utf-8", errors="replace") as file:
        return _PATRONI_MARK in file.read()
    return False


def managers(processes: Iterable[str] | None = None) -> list[str]:
    """Return the names of the software that manages clusters and runs here, from the command lines of processes."""
    lines = list(processes if processes is not None else _command_lines())
    words = {os.path.basename(word) for line in lines for word in line.split("\0")[:2]}
    return sorted(name for program, name in _MANAGERS.items() if program in words)


def _command_lines() -> Iterable[str]:
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            yield file.read()
