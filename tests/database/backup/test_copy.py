"""Copies of sets elsewhere: over ssh to a real sshd, and to an S3-compatible store; whole there, or waiting here."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import requests
from moto.server import ThreadedMotoServer
from pgprefect.backup import copy, create, sets
from pgprefect.backup.sets import BackupError, Dump, Manifest
from pgprefect.site.configuration import CopyTarget, Keep

from tests.support.ports import free_port
from tests.support.ssh_server import serving_ssh
from tests.support.waiting import wait_for

NEWEST = datetime(2026, 11, 25, 2, tzinfo=UTC)
FILES = ["globals.sql.zst", "other.sql.zst", "manifest.json"]


def make_set(home: Path, days: int = 0, safety: bool = False) -> Path:
    """A whole set of two files that hold nothing of a database."""
    path = home / sets.name_of(NEWEST - timedelta(days=days), safety)
    path.mkdir(mode=0o700)
    parts = []
    for file in FILES[:2]:
        content = subprocess.run(["zstd", "-q"], input=os.urandom(700_000), capture_output=True, check=True).stdout
        (path / file).write_bytes(content)
        parts.append(Dump("globals", None, None, file, len(content), sha256(content).hexdigest(), {}))
    sets.write(path, Manifest(path.name, "d", "", 1.5, "", "", 150000, None, {}, tuple(parts)))
    return path


def flip_a_byte(file: Path) -> None:
    """With the size and the time that it had."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@dataclass
class Place:
    """Where copies go, and what the target's owner sees there by his own means."""

    target: CopyTarget
    get_back: list[str]  # the command that copies a set's directory from there, to which NAME and DIRECTORY are added
    files: Callable[[], dict[str, bytes]]
    put: Callable[[str, bytes], object]
    unreachable: CopyTarget
    cause: str


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A host with sshd and rsync, which sees the tests' folders by their own paths: its keys' folder, and its port."""
    folder = tmp_path_factory.mktemp("ssh")
    with serving_ssh(folder, tmp_path_factory.getbasetemp()) as port:
        yield folder, port


def by_rsync(ssh: tuple[Path, int], there: Path) -> Place:
    folder, port = ssh
    there.mkdir()
    address = f"root@127.0.0.1:{there}"
    target = CopyTarget("rsync", address, str(folder), port)

    def files() -> dict[str, bytes]:
        return {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("*") if path.is_file()}

    def put(name: str, content: bytes) -> None:
        (there / name).parent.mkdir(exist_ok=True)
        (there / name).write_bytes(content)

    shell = f"ssh -p {port} -i {folder}/ssh_key -o UserKnownHostsFile={folder}/known_hosts"
    return Place(
        target=target,
        get_back=["rsync", "-a", f"--rsh={shell}", f"{address}/"],
        files=files,
        put=put,
        unreachable=replace(target, port=free_port()),
        cause="Connection refused",
    )


def by_rclone(server: ThreadedMotoServer, there: Path) -> Place:
    there.mkdir()
    host, port = server.get_host_and_port()
    section = "[{}]\ntype = s3\nprovider = Other\naccess_key_id = a\nsecret_access_key = b\nendpoint = http://{}:{}\n"
    (there / "rclone.conf").write_text(section.format("store", host, port) + section.format("gone", host, free_port()))
    name = there.parent.name.replace("_", "-").lower()
    bucket = f"http://{host}:{port}/{name}"
    owner = requests.Session()
    owner.headers["Authorization"] = "AWS a:b"
    owner.put(bucket).raise_for_status()
    target = CopyTarget("rclone", f"store:{name}/prefect", str(there))

    def files() -> dict[str, bytes]:
        keys = re.findall("<Key>prefect/(.*?)</Key>", owner.get(bucket).text)
        return {key: owner.get(f"{bucket}/prefect/{key}").content for key in keys}

    def put(name: str, content: bytes) -> None:
        owner.put(f"{bucket}/prefect/{name}", data=content).raise_for_status()

    return Place(
        target=target,
        get_back=["rclone", f"--config={there}/rclone.conf", "copy", f"{target.target}/"],
        files=files,
        put=put,
        unreachable=replace(target, target=target.target.replace("store", "gone")),
        cause="connection refused",
    )


@pytest.fixture(scope="module")
def s3() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer("127.0.0.1", free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["rsync", "rclone"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "rsync":
        return by_rsync(request.getfixturevalue("ssh"), tmp_path / "over there")
    return by_rclone(request.getfixturevalue("s3"), tmp_path / "over there")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "with space").mkdir()
    return tmp_path / "with space"


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, str]:
    """A private key of age, and the public one."""
    subprocess.run(["age-keygen", "-o", tmp_path / "key.txt"], check=True, capture_output=True)
    public = subprocess.run(["age-keygen", "-y", tmp_path / "key.txt"], check=True, capture_output=True, text=True)
    return tmp_path / "key.txt", public.stdout.strip()


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_what_is_copied_comes_back_as_it_was(
    place: Place, home: Path, tmp_path: Path, key: tuple[Path, str], encrypted: bool
) -> None:
    older, newest, safety = make_set(home, 1), make_set(home), make_set(home, 2, safety=True)
    place.put("20200101T000000Z/manifest.json", b"of another time")
    private, public = key
    recipient = public if encrypted else ""
    assert copy.copy(home, place.target, recipient) == [newest.name, older.name]
    there = place.files()
    suffix = ".age" if encrypted else ""
    expected = {f"{path.name}/{file}{suffix}" for path in (older, newest) for file in FILES}
    assert set(there) == expected | {"20200101T000000Z/manifest.json"}
    assert there["20200101T000000Z/manifest.json"] == b"of another time"
    assert not encrypted or not any(
        (newest / file).read_bytes()[:200] in there[f"{newest.name}/{file}.age"] for file in FILES
    )
    assert copy.copy(home, place.target, recipient) == []
    assert place.files() == there
    # What is there can be had back by hand, on any machine, and is what it was.
    back = home / ".upload" / newest.name
    back.mkdir(parents=True)
    command = [*place.get_back[:-1], place.get_back[-1] + newest.name + "/", str(back)]
    subprocess.run(command, check=True, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    if encrypted:
        script = (
            'for file in "$1"/*.age; do age --decrypt --identity "$2" --output "${file%.age}" "$file"; rm "$file"; done'
        )
        subprocess.run(["bash", "-euc", script, "bash", back, private], check=True)
    was = {file: (newest / file).read_bytes() for file in FILES}
    sets.remove(newest)
    assert create.add(home, back).name == newest.name
    assert {file.name: file.read_bytes() for file in newest.iterdir()} == was
    assert {path.name for path in home.iterdir()} == {
        older.name, newest.name, safety.name, ".upload", ".lock", ".lock-copy",
    }  # fmt: skip


def test_a_target_that_can_not_be_reached_gets_both_the_next_time(place: Place, home: Path) -> None:
    paths = [make_set(home, 1)]
    with pytest.raises(BackupError, match=place.cause) as failed:
        copy.copy(home, place.unreachable)
    paths.insert(0, make_set(home))
    assert failed.value.problem.code == "backup_not_copied"
    assert f"is not copied to {place.unreachable.target}: " in failed.value.problem.message
    assert paths[-1].name in failed.value.problem.message
    assert copy.waiting(home, place.target) == paths
    assert copy.copy(home, place.target) == [path.name for path in paths]
    assert copy.waiting(home, place.target) == []
    assert copy.waiting(home, place.unreachable) == ([] if place.target.tool == "rsync" else paths)


@contextlib.contextmanager
def forced(ssh: tuple[Path, int], command: str) -> Iterator[None]:
    """Let the target run this instead of what it is asked for."""
    keys, public = ssh[0] / "authorized_keys", (ssh[0] / "ssh_key.pub").read_text()
    keys.write_text(f'command="{command}" {public}')
    try:
        yield
    finally:
        keys.write_text(public)


def test_a_target_that_goes_away_in_the_middle_has_no_set(ssh: tuple[Path, int], home: Path, tmp_path: Path) -> None:
    place, path = by_rsync(ssh, tmp_path / "there"), make_set(home)
    ended = tmp_path / "ended"
    # The whole connection is gone within the second file. Which end notices first, and how it says so, is chance.
    gone = r"rsync ended with \d+: .*([Cc]onnection .*(closed|reset)|Broken pipe)"
    cut = "{ dd bs=64k count=1280k iflag=count_bytes status=none; kill -9 $PPID; } | eval $SSH_ORIGINAL_COMMAND"
    with forced(ssh, f"{cut}; touch {ended}"), pytest.raises(BackupError, match=gone) as failed:
        copy.copy(home, place.target)
    wait_for(ended.exists)
    assert failed.value.problem.code == "backup_not_copied"
    there = place.files()
    assert f"{path.name}/{FILES[0]}" in there and f"{path.name}/manifest.json" not in there
    sets.check(path)
    assert copy.copy(home, place.target) == [path.name]
    assert place.files() == {f"{path.name}/{file}": (path / file).read_bytes() for file in FILES}


def test_a_byte_that_flips_there_is_found_and_sent_again(ssh: tuple[Path, int], home: Path, tmp_path: Path) -> None:
    place, path = by_rsync(ssh, tmp_path / "there"), make_set(home)
    flip = tmp_path / "flip"
    flip.write_text(
        "#!/bin/sh\nexport SSH_ORIGINAL_COMMAND\n"
        f'eval "$SSH_ORIGINAL_COMMAND"; status=$?; file={shlex.quote(str(tmp_path))}/there/{path.name}/{FILES[1]}\n'
        'touch -r "$file" /tmp/x.$$; printf xyz | dd of="$file" bs=1 seek=5000 conv=notrunc status=none\n'
        'touch -r /tmp/x.$$ "$file"; rm /tmp/x.$$; exit $status\n'
    )
    flip.chmod(0o755)
    with forced(ssh, str(flip)), pytest.raises(BackupError, match=f"there {FILES[1]} is not what was sent") as failed:
        copy.copy(home, place.target)
    assert failed.value.problem.code == "backup_not_copied"
    assert f"{path.name}/manifest.json" not in place.files()
    assert copy.copy(home, place.target) == [path.name]
    assert place.files() == {f"{path.name}/{file}": (path / file).read_bytes() for file in FILES}


def test_a_byte_that_flips_in_a_store_is_found(s3: ThreadedMotoServer, home: Path, tmp_path: Path) -> None:
    place, path = by_rclone(s3, tmp_path / "there"), make_set(home)
    copy.send(place.target, path, FILES, path.name)
    assert copy.differing(place.target, path, FILES, path.name) == []
    content = bytearray((path / FILES[1]).read_bytes())
    content[5000] ^= 1
    place.put(f"{path.name}/{FILES[1]}", bytes(content))
    assert copy.differing(place.target, path, FILES, path.name) == [FILES[1]]


def test_what_is_damaged_here_is_not_copied_and_keeps_nothing_else_here(place: Place, home: Path) -> None:
    damaged, good = make_set(home), make_set(home, 1)
    flip_a_byte(damaged / FILES[0])
    with pytest.raises(BackupError, match="is not what was written") as failed:
        copy.copy(home, place.target)
    assert failed.value.problem.code == "backup_damaged"
    assert copy.waiting(home, place.target) == [damaged]
    assert {name.partition("/")[0] for name in place.files()} == {good.name}


def test_what_was_not_copied_yet_is_not_removed(home: Path) -> None:
    old, newest = make_set(home, 1), make_set(home)
    target = CopyTarget("rsync", "host:there", "/nowhere")
    sets.mark_copied(newest, target.name)
    keep = Keep(1, 0, 0, 0)
    assert copy.waiting(home, target) == [old]
    assert copy.waiting(home, None) == []
    assert create.prune(home, keep, spared=copy.waiting(home, target)) == []
    sets.mark_copied(old, target.name)
    assert create.prune(home, keep, spared=copy.waiting(home, target)) == [old.name]


def test_no_room_for_what_is_encrypted(home: Path, key: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_set(home)
    monkeypatch.setattr(copy, "_HEADROOM", 1e12)
    with pytest.raises(BackupError, match="bytes free, and the set") as failed:
        copy.copy(home, CopyTarget("rsync", "host:there", "/nowhere"), key[1])
    assert failed.value.problem.code == "backup_no_space"
    assert not (home / ".outgoing").exists()


def test_what_comes_from_elsewhere_is_whole_and_new_or_stays_outside(home: Path) -> None:
    path = make_set(home)
    upload = home / ".upload"
    upload.mkdir()
    copied = upload / path.name
    subprocess.run(["cp", "-a", path, copied], check=True)
    with pytest.raises(BackupError, match=r"has a set .* already") as failed:
        create.add(home, copied)
    assert failed.value.problem.code == "backup_exists"
    sets.remove(path)
    flip_a_byte(copied / FILES[0])
    with pytest.raises(BackupError, match="is not what was written"):
        create.add(home, copied)
    (copied / FILES[0]).unlink()
    with pytest.raises(BackupError, match="is not what was written"):
        create.add(home, copied)
    assert sets.list_sets(home) == []
    content = json.loads((copied / "manifest.json").read_text())
    assert content["name"] == path.name


def test_two_copies_at_once(home: Path) -> None:
    with create.directory_lock(home, ".lock-copy"), pytest.raises(BackupError, match="Another backup, copy") as failed:
        copy.copy(home, CopyTarget("rsync", "host:there", "/nowhere"))
    assert failed.value.problem.code == "backup_running"
