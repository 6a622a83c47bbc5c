"""The command line of pgprefect: which command takes which option, and how wrong usage and errors end."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pgprefect import __version__
from pgprefect.cli.common import Parser, add_command, confirmed
from pgprefect.cli.main import build_parser, main

# What each command takes, besides --help, --config and --verbose.
TAKES = {
    "health": {"--tenant", "--json", "--timeout"},
    "metrics": {"--alerts", "--textfile", "--timeout"},
    "verify": {"--tenant", "--json"},
    "stats show": {"--tenant", "--json", "--csv", "--days"},
    "stats compare": {"--tenant", "--json", "--days", "--all"},
    "stats flaky": {"--tenant", "--json", "--days"},
    "stats costs": {"--tenant", "--json", "--days"},
    "stats report": {"--tenant", "--html", "--days"},
    "stats path": {"--tenant", "--json"},
    "events": {"--json", "--workflow", "--days", "--limit"},
    "database-events status": {"--tenant", "--json"},
    "database-events dead": {"--tenant", "--json", "--limit"},
    "database-events retry": {"--tenant", "--dry-run"},
    "audit": {"--json", "--since", "--role", "--object", "--limit"},
    "cleanup": {"--tenant", "--json", "--dry-run", "--yes", "--days", "--allow-zero-days"},
    "runs recover": {"--tenant", "--json", "--dry-run", "--yes", "--quiet"},
    "workers scale": {"--json", "--dry-run", "--quiet"},
    "objects diff": {"--tenant", "--json", "--declaration"},
    "objects prune": {"--tenant", "--json", "--dry-run", "--yes", "--declaration"},
    "objects export": {"--tenant"},
    "backup create": {"--tenant", "--json", "--dry-run", "--kind", "--safety", "--unless-verified"},
    "backup list": {"--json"},
    "backup check": {"--json", "--set"},
    "backup prune": {"--json", "--dry-run"},
    "backup export": {"--json", "--dry-run", "--set", "--to"},
    "backup add": {"--dry-run", "--from"},
    "copy": {"--dry-run"},
    "drill": {"--json", "--dry-run", "--set"},
    "restore": {
        *("--tenant", "--dry-run", "--yes", "--set", "--kind", "--schema", "--into"),
        *("--table", "--put-back", "--no-safety-set"),
    },
    "pitr backup": {"--json", "--dry-run", "--full"},
    "pitr list": {"--json"},
    "pitr check": set(),
    "pitr point": {"--dry-run"},
    "pitr restore": {"--json", "--dry-run", "--yes", "--time", "--point", "--end", "--beside"},
    "pitr undo": {"--dry-run", "--yes"},
    "import sqlite": {"--tenant", "--dry-run", "--yes", "--leave-out-orphans", "--let-expire", "--scratch"},
    "import-copy": set(),
    "import-examine": set(),
    "import-rows": set(),
    "upgrade check": {"--tenant", "--json"},
    "upgrade canary": {"--tenant", "--dry-run", "--timeout"},
    "revision": {"--tenant", "--require-current", "--or-newer"},
    "migrate": {"--to", "--gate"},
    "hand-over": {"--tenant"},
    "revoke-secrets": set(),
    "take-up": {"--stopped"},
    "relay": set(),
    "wait": {"--user"},
    "drill-unpack": set(),
    "drill-prove": set(),
    "drill-mark": set(),
}
COMMON = {"--help", "--config", "--verbose"}
UNITS = {
    *("revision", "revoke-secrets", "migrate", "hand-over", "take-up", "relay", "wait"),
    *("drill-unpack", "drill-prove", "drill-mark"),
    *("import-copy", "import-examine", "import-rows"),
}


def commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command with its parser."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for name, below in group.choices.items():
            yield from commands(below, (*path, name))
    if not groups:
        yield " ".join(path), parser


def long_options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for option in parser._option_string_actions if option.startswith("--")}


def refused(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def site_file(tmp_path: Path) -> str:
    """A site whose database nobody reaches."""
    tenants = [{"name": name, "schema": name, "api_url": "http://127.0.0.1:1/api"} for name in ("prefect", "research")]
    content = {"login": {"host": "127.0.0.1", "port": 1, "user": "x"}, "database": "app", "tenants": tenants}
    path = tmp_path / "pgprefect.json"
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Let the command line consist of one command ``it`` that does this."""

    def become(run: Callable[..., Any]) -> None:
        def parser() -> Parser:
            built = build_parser()
            (group,) = [action for action in built._actions if isinstance(action, argparse._SubParsersAction)]
            add_command(group, "it", run, "do it")
            return built

        monkeypatch.setattr("pgprefect.cli.main.build_parser", parser)

    return become


def test_each_command_takes_what_it_needs() -> None:
    assert {name: long_options(parser) - COMMON for name, parser in commands(build_parser())} == TAKES


@pytest.mark.parametrize("name", TAKES)
def test_no_command_takes_the_options_of_others(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = {
        "stats path": ["x"],
        "pitr point": ["x"],
        "upgrade check": ["x"],
        "take-up": ["x"],
        "wait": ["x"],
        "backup export": ["--to=/x"],
        "backup add": ["--from=/x"],
        "import sqlite": ["/x"],
        "import-copy": ["/x", "/y"],
        "import-examine": ["/x"],
        "import-rows": ["/x"],
        "drill-unpack": ["/x", "/y"],
        "drill-prove": ["/x"],
        "drill-mark": ["/x"],
    }.get(name)
    parser = build_parser()
    for option in sorted({option for options in TAKES.values() for option in options} - TAKES[name]):
        with pytest.raises(SystemExit, match=r"^3$"):
            parser.parse_args([*name.split(), *(needed or []), option])
        assert f"pgprefect {name}: unrecognized arguments: {option}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["", "backup", "pitr", "import", "runs", "workers", "objects", "database-events", *TAKES]
)
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(*name.split(), "--help") == 0
    text = capsys.readouterr().out
    assert f"usage: pgprefect {name}".strip() in text and "options of every command:" in text


def test_the_help_lists_what_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("--help") == 0
    text = capsys.readouterr().out
    listed = {
        line.split()[0]
        for line in text.partition("COMMAND\n")[2].splitlines()
        if line.startswith("    ") and line[4] != " "
    }
    assert listed == {name.split()[0] for name in TAKES} - UNITS
    assert refused("nonsense") == 3
    said = capsys.readouterr().err
    assert "'nonsense'" in said and not [name for name in UNITS if name in said]


@pytest.mark.parametrize(
    "line",
    [
        "", "nonsense", "backup nonsense", "backup --to /x", "backup export --to x --set y", "backup add", "pitr point",
        "events --days 1e9", "events --days nan", "events --limit 0", "events --limit 1.5", "health --timeout -1",
        "health --timeout nan", "health --timeout inf", "stats --days nan", "stats --days 0", "stats --json --csv",
        "cleanup --days -1", "cleanup --dry", "import sqlite", "import sqlite x",
        "import sqlite /x --scratch y", "--tenant prefect events", "--tenant prefect pitr list",
    ],
)  # fmt: skip
def test_wrong_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(*line.split()) == 3
    assert capsys.readouterr().err.startswith("usage: pgprefect")


@pytest.mark.parametrize(
    "line",
    ["backup", "backup create", "backup --dry-run", "backup --tenant x --json", "backup -v --tenant=x --kind app"],
)
def test_backup_alone_makes_one(line: str) -> None:
    run = build_parser().parse_args(line.split()).run
    assert run is build_parser().parse_args(["backup", "create"]).run
    assert run is not build_parser().parse_args(["backup", "--config", "x", "list"]).run


@pytest.mark.parametrize("line", ["--tenant b --config c -v stats", "stats --tenant b -v --config c"])
def test_what_every_command_takes_stands_before_or_after_it(line: str) -> None:
    options = build_parser().parse_args(line.split())
    assert (options.tenant, options.config, options.verbose) == ("b", "c", True)


@pytest.mark.parametrize(
    "line",
    [
        "verify", "health", "stats", "cleanup --dry-run", "backup", "backup --dry-run", "restore", "revision",
        "import sqlite /x",
    ],
)  # fmt: skip
def test_a_tenant_that_is_not_there(line: str, site_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", site_file, *line.split(), "--tenant", "nobody"]) == 3
    assert "There is no tenant 'nobody'; there are: prefect, research." in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("--version") == 0
    assert capsys.readouterr().out == f"pgprefect {__version__}\n"


def test_an_unexpected_error_is_one_sentence(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_options: Any) -> int:
        raise ValueError("two\nlines")

    command(fail)
    assert main(["it"]) == 3
    assert capsys.readouterr().err == "An unexpected error, ValueError: two lines. With -v it shows where.\n"
    with caplog.at_level(logging.DEBUG):
        assert main(["it", "-v"]) == 3
    assert caplog.records[-1].exc_info and "-v" not in capsys.readouterr().err


def test_an_interrupted_command(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_options: Any) -> int:
        raise KeyboardInterrupt

    command(interrupt)
    assert main(["it"]) == 3 and capsys.readouterr().err == "Interrupted.\n"


def test_a_table_of_events_that_is_none(
    site_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PGPREFECT_EVENTS_COLUMNS", "{")
    assert main(["--config", site_file, "events"]) == 3
    assert "PGPREFECT_EVENTS_COLUMNS is '{', which is no JSON object" in capsys.readouterr().err


def test_zero_days_need_a_word_of_their_own(site_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", site_file, "cleanup", "--days", "0", "--yes"]) == 3
    assert "say --allow-zero-days too" in capsys.readouterr().err
    assert main(["--config", site_file, "cleanup", "--days", "0", "--yes", "--allow-zero-days"]) == 3
    assert capsys.readouterr().err.startswith("connection_failed: ")


@pytest.mark.parametrize(("line", "where"), [("backup list", "backup sets are"), ("pitr list", "cluster is")])
def test_on_another_host_the_reader_is_told_where(
    line: str, where: str, site_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(Path(site_file).read_text())
    content["login"]["host"] = "db.example.org"
    content["backups"] = {"directory": "/nowhere/at/all", "kinds": ["full"], "keep": {}}
    Path(site_file).write_text(json.dumps(content))
    assert main(["--config", site_file, *line.split()]) == 3
    assert f"The {where} on the host of the database, db.example.org" in capsys.readouterr().err


def test_pitr_that_is_off(site_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(Path(site_file).read_text())
    content["login"]["host"] = ""
    Path(site_file).write_text(json.dumps(content))
    assert main(["--config", site_file, "pitr", "list"]) == 3
    assert "set pgbackrest_enabled: true and run site.yml" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "wanted"), [("yes\n", True), ("y\n", False), ("\n", False), ("", False)])
def test_a_person_at_a_terminal_is_asked(answer: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    person, terminal = os.openpty()
    with open(person, "wb", buffering=0) as keys, open(terminal) as stdin, open(os.dup(terminal), "w") as stdout:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        keys.write(answer.encode() or b"\x04")
        assert confirmed(argparse.Namespace(yes=False), "This deletes them.") is wanted
