"""Which values the role refuses before it changes anything, and where it says that the repository is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.ansible import CHECKED, run_cases, run_tasks
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


def given(**variables: Any) -> dict[str, Any]:
    values = {"enabled": True, **WIRED, **variables}
    return {**CHECKED, **{f"pgbackrest_{name}": value for name, value in values.items()}}


def test_what_is_well(tmp_path: Path) -> None:
    cases = [
        given(),
        given(repository=S3, **S3_KEYS),
        given(repository={**SFTP, "port": 2222}, **SFTP_KEY),
        given(enabled=False, passphrase=""),
    ]
    assert [outcome.text for outcome in run_cases(tmp_path, cases, PREFLIGHT) if outcome.failed] == []


REFUSED: list[tuple[dict[str, Any], str]] = [
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
]  # fmt: skip


def test_what_is_refused(tmp_path: Path) -> None:
    outcomes = run_cases(tmp_path, [given(**variables) for variables, _ in REFUSED], PREFLIGHT)
    for (_, words), outcome in zip(REFUSED, outcomes, strict=True):
        assert outcome.failed and not outcome.changed and words in outcome.text, (words, outcome)
        assert PASSPHRASE not in outcome.text


def test_another_passphrase_than_the_repository_has_is_refused(tmp_path: Path) -> None:
    """Without the former one nobody can read the backups."""
    file = tmp_path / "secrets.conf"
    here = {"ansible.builtin.set_fact": {"__pgbackrest_secrets_file": str(file)}}
    cases = [given(), given(passphrase="another-one-that-is-long"), given(passphrase=PASSPHRASE[:-1])]
    assert not any(outcome.failed for outcome in run_cases(tmp_path, cases, here, PREFLIGHT))
    file.write_text(f"[global]\nrepo1-cipher-pass={PASSPHRASE}\n")
    same, another, part = run_cases(tmp_path, cases, here, PREFLIGHT)
    assert not same.failed
    for refused in (another, part):
        assert refused.failed and not refused.changed
        assert f"has another passphrase in {file} than the inventory" in refused.text
        assert "another-one-that-is-long" not in refused.text and PASSPHRASE[:-1] not in refused.text
    (unused,) = run_cases(tmp_path, [given(enabled=False, passphrase="")], here, PREFLIGHT)
    assert not unused.failed


def test_secrets_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    tasks = [{"ansible.builtin.include_vars": str(ROLE / part / "main.yml")} for part in ("defaults", "vars")]
    facts = {"ansible.builtin.set_fact": {"pgbackrest_repository": S3, "pgbackrest_passphrase": PASSPHRASE,
             **{f"pgbackrest_{key}": value for key, value in S3_KEYS.items()}}}  # fmt: skip
    files = [tmp_path / "pgbackrest.conf", tmp_path / "secrets.conf"]
    templates = [
        {"ansible.builtin.template": {"src": str(ROLE / f"templates/{file.name}.j2"), "dest": str(file)}}
        for file in files
    ]
    done = run_tasks(tmp_path, given(), *tasks, facts, *templates)
    assert done.returncode == 0, done.stdout
    public, secret = (file.read_text() for file in files)
    for words in ("repo1-s3-endpoint=s3.example.com",):
        assert words in public and words not in secret
    for words in (f"repo1-cipher-pass={PASSPHRASE}", "repo1-s3-key-secret=secret"):
        assert words in secret and words not in public


def test_sftp_is_refused_where_pgbackrest_is_too_old(tmp_path: Path) -> None:
    old = {"ansible.builtin.set_fact": {"ansible_facts": {"distribution_release": "bookworm"}}}
    refused = run_tasks(tmp_path, given(repository=SFTP, **SFTP_KEY), old, PREFLIGHT)
    assert refused.returncode != 0 and "Debian 12 has an older one" in " ".join(refused.stdout.split())
