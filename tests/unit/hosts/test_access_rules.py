"""Our lines in pg_hba.conf and pg_ident.conf, beside those of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils.hosts import access_rules
from ansible.module_utils.hosts.access_rules import AccessRulesError, Wanted, apply, other_lines, plan
from ansible.module_utils.hosts.files import Owner
from ansible.module_utils.hosts.postgresql_cluster import Cluster, configured, configured_port, look, managers

PACKAGE = """# PostgreSQL Client Authentication Configuration File
local   all             postgres                                peer
# "local" is for Unix domain socket connections only
local   all             all                                     peer
host    all             all             127.0.0.1/32            scram-sha-256
host    all             all             ::1/128                 scram-sha-256
local   replication     all                                     peer
host    replication     all             127.0.0.1/32            scram-sha-256
host    replication     all             ::1/128                 scram-sha-256
"""
WEBSHOP = "host webshop webshop_app 127.0.0.1/32 scram-sha-256\n"
REJECTED = ['local "mltrading" all reject', 'host "mltrading" all all reject']
WANTED = Wanted("mltrading", ["local all postgres peer"], ['pgprefect "root" "app"'])
RUNNING = Cluster(exists=True, running=True, port=5432, exclusive=True)
NOBODY = Owner(None, None)


def written(folder: Path, cluster: Cluster = RUNNING, wanted: Wanted = WANTED) -> str:
    """The rules after a run, which a second one does not change."""
    stopped = replace(cluster, running=False)  # there is no server to load them
    apply(plan(str(folder), wanted, cluster, NOBODY), stopped)
    assert plan(str(folder), wanted, cluster, NOBODY).writes == []
    return (folder / "pg_hba.conf").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pg_hba.conf").write_text(PACKAGE)
    (tmp_path / "pg_ident.conf").write_text("# comments\nother nobody somebody\n")
    (tmp_path / "postgresql.conf").write_text("port = 5433\t\t# (change requires restart)\n")
    return tmp_path


def test_the_packages_rules_go_where_there_is_no_other_database(folder: Path) -> None:
    lines = written(folder).splitlines()
    assert lines[1:-1] == ["local all postgres peer", *REJECTED]
    kept = [path for path in folder.iterdir() if path.name.startswith("pg_hba.conf.") and path.name.endswith("~")]
    assert [path.read_text() for path in kept] == [PACKAGE]


def test_rules_of_others_stay_verbatim_after_ours(folder: Path) -> None:
    (folder / "pg_hba.conf").write_text(PACKAGE + WEBSHOP)
    text = written(folder)
    assert text.endswith(f"# END ansible-prefect\n{PACKAGE}{WEBSHOP}")
    assert text.index(REJECTED[1]) < text.index("local   all")
    # Somebody adds a rule, wherever, and a new rule of ours comes.
    (folder / "pg_hba.conf").write_text("local early all peer\n" + text + "host late all samenet scram-sha-256\n")
    text = written(folder, wanted=replace(WANTED, rules=[*WANTED.rules, 'local "mltrading" "app" peer']))
    block, others = text.split("# END ansible-prefect\n")
    assert 'local "mltrading" "app" peer' in block
    assert others == f"local early all peer\n{PACKAGE}{WEBSHOP}host late all samenet scram-sha-256\n"


def test_the_packages_rules_stay_where_another_database_needs_them(folder: Path) -> None:
    assert PACKAGE in written(folder, replace(RUNNING, databases=["webshop"]))


def test_a_database_that_others_may_enter_stays_open_to_their_rules(folder: Path) -> None:
    assert REJECTED[0] not in written(folder, replace(RUNNING, exclusive=False))
    assert REJECTED[0] in written(folder, replace(RUNNING, exclusive=False), replace(WANTED, exclusive=True))
    # A server that does not answer cannot say; what stands there stays.
    assert REJECTED[0] in written(folder, Cluster(exists=True))


def test_rules_of_others_are_refused_where_that_is_wanted(folder: Path) -> None:
    (folder / "pg_hba.conf").write_text(PACKAGE + WEBSHOP)
    with pytest.raises(AccessRulesError, match=rf"is refuse: {WEBSHOP.strip()}\.") as refused:
        plan(str(folder), replace(WANTED, keep_others=False), RUNNING, NOBODY)
    assert refused.value.problem.code == "hba_other_rules"
    (folder / "pg_hba.conf").write_text(PACKAGE)
    assert plan(str(folder), replace(WANTED, keep_others=False), RUNNING, NOBODY).others == []


def test_a_file_that_the_first_release_owned_is_ours_as_a_whole() -> None:
    assert other_lines("# Managed by ansible-prefect: changes\n#\nlocal all postgres peer\n") == ""


def test_what_postgresql_cannot_read_is_put_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's answer is made up here; a real one gives it where a whole site is tested."""
    monkeypatch.setattr(access_rules, "ask", lambda *_arguments: [[3, "invalid method"]])
    (folder / "pg_ident.conf").unlink()
    with pytest.raises(AccessRulesError, match=r"line 3 of pg_hba\.conf: invalid method") as refused:
        apply(plan(str(folder), WANTED, RUNNING, NOBODY), RUNNING)
    assert refused.value.problem.code == "hba_refused"
    assert (folder / "pg_hba.conf").read_text() == PACKAGE and not (folder / "pg_ident.conf").exists()


def test_mappings_of_others_stay(folder: Path) -> None:
    written(folder)
    text = (folder / "pg_ident.conf").read_text()
    assert 'pgprefect "root" "app"\n' in text and text.endswith("# comments\nother nobody somebody\n")


def test_a_file_in_another_encoding_stays_as_it_is(folder: Path) -> None:
    (folder / "pg_hba.conf").write_bytes(b"# r\xe9gle\n" + WEBSHOP.encode())
    apply(plan(str(folder), WANTED, RUNNING, NOBODY), replace(RUNNING, running=False))
    assert (folder / "pg_hba.conf").read_bytes().endswith(b"# r\xe9gle\n" + WEBSHOP.encode())


def test_the_configured_port(folder: Path) -> None:
    assert configured_port(str(folder)) == 5433
    (folder / "conf.d").mkdir()
    (folder / "conf.d/ansible-prefect.conf").write_text("port = '5434'\n#port = 1\n")
    assert configured_port(str(folder)) == 5434


def test_software_that_manages_clusters() -> None:
    lines = ["/usr/bin/python3\0/usr/bin/patroni\0/etc/patroni/config.yml", "repmgrd\0-d", "grep\0-r\0pg_autoctl"]
    assert managers(lines) == ["Patroni", "repmgr"]


def test_no_cluster(tmp_path: Path) -> None:
    assert not look(str(tmp_path), "mltrading").exists


def test_a_cluster_that_must_not_start(folder: Path) -> None:
    start = folder / "start.conf"
    said = {}
    for text in ("auto\n", "# or disabled\nauto\n", "# Another host took its place.\ndisabled\n"):
        start.write_text(text)
        said[text] = look(str(folder), "mltrading").disabled
    start.unlink()
    assert list(said.values()) == [False, False, True] and not look(str(folder), "mltrading").disabled


def test_the_configuration_that_patroni_has_renamed(folder: Path) -> None:
    (folder / "postgresql.conf").rename(folder / "postgresql.base.conf")
    (folder / "postgresql.conf").write_text("include 'postgresql.base.conf'\nlisten_addresses = 'a,b'\nport = '5439'\n")
    assert configured_port(str(folder)) == 5439
    assert configured(str(folder), "data_directory", "none") == "none"
    assert look(str(folder), "mltrading").patroni is False
