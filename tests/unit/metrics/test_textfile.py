"""The node exporter's file: replaced at once, or left as it was."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from pgprefect.metrics.textfile import TextfileError, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pgprefect.prom"


@contextlib.contextmanager
def no_room(size: int = 4096) -> Iterator[None]:
    """No file may become larger, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_everybody_may_read_it(path: Path) -> None:
    before = os.umask(0o077)
    try:
        write(path, "é 1\n")
    finally:
        os.umask(before)
    assert path.read_text(encoding="utf-8") == "é 1\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == [path.name]


def test_a_reader_keeps_the_former_file(path: Path) -> None:
    write(path, "former 1\n")
    with open(path, encoding="utf-8") as reader:
        write(path, "new 1\n")
        assert (reader.read(), path.read_text()) == ("former 1\n", "new 1\n")


def test_a_link_is_not_followed(path: Path) -> None:
    other = path.with_name("passwd")
    other.write_text("root\n")
    path.symlink_to(other)
    write(path, "new 1\n")
    assert other.read_text() == "root\n" and not path.is_symlink() and path.read_text() == "new 1\n"


def test_a_full_disk_leaves_the_former_file(path: Path) -> None:
    write(path, "former 1\n")
    with no_room(), pytest.raises(TextfileError, match="File too large") as refused:
        write(path, "x 1\n" * 10_000)
    assert refused.value.problem.code == "textfile_not_written"
    assert path.read_text() == "former 1\n" and os.listdir(path.parent) == [path.name]


def test_a_folder_that_is_not_there(path: Path) -> None:
    with pytest.raises(TextfileError, match="No such file or directory"):
        write(path.parent / "missing" / path.name, "x 1\n")
    path.mkdir()
    with pytest.raises(TextfileError, match="Is a directory"):
        write(path, "x 1\n")
    assert os.listdir(path.parent) == [path.name]
