"""The file that is sent: its digest, its prefixes, and what must not happen to it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tim_trio.net.client.files import outgoing
from tim_trio.net.client.files.errors import FileUnusable
from tim_trio.net.client.files.outgoing import OutgoingFile
from tim_trio.net.client.files.threads import Stopped

DATA = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(DATA)
    return path


def ignore(_: int) -> None:
    pass


def test_the_digest_of_a_file_and_of_its_prefixes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small blocks, so that there are marks to begin from.
    monkeypatch.setattr(outgoing, "READ_BYTES", 100)
    file = OutgoingFile.open(path)
    shown: list[int] = []
    assert file.digest(shown.append) == hashlib.sha256(DATA).hexdigest()
    assert shown[-1] == len(DATA) and shown == sorted(shown)
    for length in (0, 1, 399, 400, 401, 5000, len(DATA) - 1, len(DATA)):
        assert file.prefix_digest(length) == hashlib.sha256(DATA[:length]).hexdigest()
    assert file.read(0, 90) == DATA[:90]
    assert file.read(len(DATA) - 50, 90) == DATA[-50:]
    file.close()
    file.close()


def test_only_ordinary_files_are_sent(tmp_path: Path) -> None:
    with pytest.raises(FileUnusable, match="directory"):
        OutgoingFile.open(tmp_path)
    with pytest.raises(FileUnusable, match="No such file"):
        OutgoingFile.open(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileUnusable, match="not an ordinary file"):
        OutgoingFile.open(tmp_path / "pipe")


def test_a_file_that_changes_is_noticed(path: Path) -> None:
    file = OutgoingFile.open(path)
    file.digest(ignore)
    assert file.is_unchanged()
    os.utime(path, (1, 1))
    assert not file.is_unchanged()
    os.truncate(path, 100)
    with pytest.raises(FileUnusable, match="shorter"):
        file.read(0, 101)
    with pytest.raises(FileUnusable, match="shorter"):
        file.prefix_digest(200)
    with pytest.raises(FileUnusable, match="changes"):
        file.digest(ignore)
    file.close()


def test_another_file_under_the_name_does_not_matter(path: Path) -> None:
    file = OutgoingFile.open(path)
    path.unlink()
    path.write_bytes(b"something else")
    file.digest(ignore)
    assert file.is_unchanged()
    assert file.read(0, 2 * len(DATA)) == DATA
    file.close()


def test_reading_stops_when_nobody_waits(path: Path) -> None:
    file = OutgoingFile.open(path)
    file.stopped = True
    with pytest.raises(Stopped):
        file.digest(ignore)
    with pytest.raises(Stopped):
        file.prefix_digest(100)
    file.close()


def test_a_file_that_cannot_be_read(path: Path) -> None:
    file = OutgoingFile.open(path)
    file.close()
    file._fd = os.open(path, os.O_WRONLY)
    with pytest.raises(FileUnusable, match="cannot read"):
        file.read(0, 10)
    file.close()
