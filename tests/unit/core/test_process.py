"""The programs give way to others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pgprefect.core.process import Process, ProcessFailed, error_lines

from tests.support.project import ROOT

SCRIPT = """
import os, subprocess, sys
from pgprefect.core.process import Process

process = Process([["sh", "-c", "read line; nice"]], dict(os.environ), subprocess.PIPE, sys.stdout.buffer)
process.stdin.write(b"now\\n")
process.stdin.close()
process.wait()
"""


@pytest.mark.parametrize(("own", "theirs"), [(0, 10), (15, 15)])
def test_programs_have_a_low_priority(own: int, theirs: int) -> None:
    done = subprocess.run(
        ["nice", "-n", str(own), sys.executable, "-c", SCRIPT],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "module_utils")},
        check=True,
        stdout=subprocess.PIPE,
    )
    assert int(done.stdout) == theirs


def test_one_whose_reader_had_enough_has_not_failed() -> None:
    Process([["yes"], ["head", "-n", "1"]], dict(os.environ)).wait()
    with pytest.raises(ProcessFailed, match="false ended with 1"):
        Process([["yes"], ["false"]], dict(os.environ)).wait()


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"/missing is not installed on this host\."):
        Process([["yes"], [str(tmp_path / "missing")]])
    file = tmp_path / "file"
    file.touch(mode=0o600)
    with pytest.raises(ProcessFailed, match=r"/file cannot be run: Permission denied\."):
        Process([[str(file)]])


def test_the_first_error_is_what_is_said() -> None:
    """PostgreSQL's programs go on talking after it, and what they say last is not the cause."""
    text = """
pg_restore: connecting to database for restore
pg_restore: while PROCESSING TOC:
pg_restore: error: could not execute query: ERROR:  role "grafana" does not exist
DETAIL:  It was dropped.
Command was: GRANT SELECT ON TABLE public.market_data TO grafana;


pg_restore: error: another one
pg_restore: warning: errors ignored on restore: 2
"""
    assert error_lines(text) == (
        'pg_restore: error: could not execute query: ERROR:  role "grafana" does not exist DETAIL:  It was dropped.'
    )
    assert error_lines("one\ntwo\nthree\nfour\nfive\n") == "two three four five"
    assert error_lines("") == "no reason given"
