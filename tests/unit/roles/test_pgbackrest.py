"""Which values the role refuses before it changes anything, and where it says that the repository is."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.ansible import run_tasks
from tests.support.project import ROOT

ROLE = ROOT / "roles/pgbackrest"
PASSPHRASE = "long enough for you".replace(" ", "-")
S3 = {"type": "s3", "path": "/site", "bucket": "backups", "endpoint": "s3.example.com", "region": "eu"}
SFTP = {"type": "sftp", "host": "other", "user": "backup", "known_hosts": ["other ssh-ed25519 AAAA"]}
SFTP_KEY = {"sftp_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n"}
PREFLIGHT = {"ansible.builtin.include_role": {"name": "pgbackrest", "tasks_from": "preflight"}}
S3_KEYS = {"s3_key": "key", "s3_key_secret": "secret"}
# What the wiring sets.
WIRED = {
    "server_version": 15,
    "schedule_file": "/etc/cron.d/postgresql-pitr",
    "records": "/var/lib/postgresql_pitr",
    "passphrase": PASSPHRASE,
}


def play(folder: Path, *tasks: dict[str, Any], **variables: Any) -> subprocess.CompletedProcess[str]:
    given = {"enabled": True, **WIRED, **variables}
    values = {f"pgbackrest_{name}": value for name, value in given.items()}
    return run_tasks(folder, values, *tasks)


def preflight(folder: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    return play(folder, PREFLIGHT, **variables)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"repository": S3, **S3_KEYS},
        {"repository": {**SFTP, "port": 2222}, **SFTP_KEY},
        {"enabled": False, "passphrase": ""},
    ],
)
def test_what_is_well(tmp_path: Path, variables: dict[str, Any]) -> None:
    done = preflight(tmp_path, **variables)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"full_schedule": "weekly"}, 'pgbackrest_full_schedule is weekly, but it must be five fields'),
        ({"incremental_schedule": "1 2 3"}, "pgbackrest_incremental_schedule is 1 2 3"),
        ({"keep_full": 0}, "pgbackrest_keep_full is 0, but it must be from 1 to 1000"),
        ({"archive_timeout_s": 86400}, "pgbackrest_archive_timeout_s is 86400, but it must be from 1 to 3600"),
        ({"repository": {"path": "backups"}}, "its path must be absolute"),
        ({"repository": {"path": "/var/lib/postgresql/backups"}}, "outside of /var/lib/postgresql"),
        ({"repository": {"bucket": "backups"}}, "the type path needs nothing and may have nothing else"),
        ({"repository": {"type": "s3", "bucket": "backups"}, **S3_KEYS}, "the type s3 needs bucket, endpoint, region"),
        ({"repository": {"type": "sftp", "host": "other"}, **SFTP_KEY}, "the type sftp needs host, user, known_hosts"),
        ({"repository": {**SFTP, "bucket": "backups"}, **SFTP_KEY}, "may have port: correct it"),
        ({"repository": SFTP, "sftp_key": "secret"}, "pgbackrest_sftp_key is missing, or is no private key"),
        ({"repository": {"type": "ftp"}}, "one of: path, s3, sftp, got: ftp"),
        ({"repository": {"pth": "/x"}}, "pth"),
        ({"passphrase": "short"}, "pgbackrest_passphrase is missing, or has less than 16 characters"),
        ({"repository": S3}, "pgbackrest_s3_key is missing"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, variables: dict[str, Any], words: str) -> None:
    refused = preflight(tmp_path, **variables)
    text = " ".join(refused.stdout.split())
    assert refused.returncode != 0 and words in text, refused.stdout
    assert "changed=0" in text and PASSPHRASE not in text


@pytest.mark.parametrize("name", ["pgbackrest.conf", "secrets.conf"])
def test_secrets_are_in_a_file_of_their_own(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    tasks = [{"ansible.builtin.include_vars": str(ROLE / part / "main.yml")} for part in ("defaults", "vars")]
    given = {"ansible.builtin.set_fact": {"pgbackrest_repository": S3, "pgbackrest_passphrase": PASSPHRASE,
             **{f"pgbackrest_{key}": value for key, value in S3_KEYS.items()}}}  # fmt: skip
    template = {"ansible.builtin.template": {"src": str(ROLE / "templates" / f"{name}.j2"), "dest": str(file)}}
    done = play(tmp_path, *tasks, given, template)
    assert done.returncode == 0, done.stdout
    text = file.read_text()
    assert ("repo1-s3-endpoint=s3.example.com" in text) == (name == "pgbackrest.conf")
    assert (f"repo1-cipher-pass={PASSPHRASE}" in text) == (name == "secrets.conf")
    assert ("repo1-s3-key-secret=secret" in text) == (name == "secrets.conf")


def test_sftp_is_refused_where_pgbackrest_is_too_old(tmp_path: Path) -> None:
    old = {"ansible.builtin.set_fact": {"ansible_facts": {"distribution_release": "bookworm"}}}
    refused = play(tmp_path, old, PREFLIGHT, repository=SFTP, **SFTP_KEY)
    assert refused.returncode != 0 and "Debian 12 has an older one" in " ".join(refused.stdout.split())
