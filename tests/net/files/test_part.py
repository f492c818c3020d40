"""Parts on the disk: written, left behind, found again, named."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from tim_trio.net.client.files.messages import Offer
from tim_trio.net.client.files.part import (
    Part,
    PartOf,
    find_parts,
    free_bytes,
    read_part_of,
)
from tim_trio.net.client.files.threads import Stopped

NAME = "a.txt"
TRANSFER = "1" * 32
DATA = bytes(range(256)) * 16


def part_of(name: str = NAME, data: bytes = DATA, receiver: str = "0123456789abcdef") -> PartOf:
    return PartOf(
        account="alice",
        name=name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        receiver=receiver,
    )


def files_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_part_becomes_a_file(tmp_path: Path) -> None:
    part = Part.create(tmp_path, part_of(), TRANSFER)
    assert files_in(tmp_path) == {".a.txt.01234567.part", ".a.txt.01234567.part.json"}
    part.write(DATA[:1000])
    part.write(memoryview(DATA)[1000:])
    assert part.sha256 == part.of.sha256
    assert part.finish() == tmp_path / NAME
    assert files_in(tmp_path) == {NAME, ".a.txt.01234567.part.json"}
    part.forget()
    part.forget()
    assert files_in(tmp_path) == {NAME}
    assert (tmp_path / NAME).read_bytes() == DATA
    part.close()


def test_an_empty_file(tmp_path: Path) -> None:
    part = Part.create(tmp_path, part_of(data=b""), TRANSFER)
    assert part.sha256 == part.of.sha256
    assert part.finish().read_bytes() == b""


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("mine")
    (tmp_path / "a (1).txt").symlink_to("/nowhere")
    part = Part.create(tmp_path, part_of(), TRANSFER)
    part.write(DATA)
    assert part.finish() == tmp_path / "a (2).txt"
    assert (tmp_path / NAME).read_text() == "mine"


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / NAME).write_text("mine")
    part = Part.create(tmp_path, part_of(), TRANSFER)
    part.write(DATA)
    assert part.finish() == tmp_path / "a (1).txt"
    part.forget()
    assert files_in(tmp_path) == {NAME, "a (1).txt"}
    assert (tmp_path / NAME).read_text() == "mine"
    assert (tmp_path / "a (1).txt").read_bytes() == DATA


def test_a_name_that_cannot_be_given_leaves_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    part = Part.create(tmp_path, part_of(), TRANSFER)
    part.write(DATA)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", broken)
        with pytest.raises(OSError, match="Input/output"):
            part.finish()
    # A name that it did not get is not taken for its own later.
    part.close()
    again = Part.open(part.path)
    assert again is not None and again.named is None
    again.recover()
    assert again.finish().read_bytes() == DATA


def test_too_many_files_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exists(*_: object, **__: object) -> None:
        raise FileExistsError

    monkeypatch.setattr(os, "link", exists)
    part = Part.create(tmp_path, part_of(), TRANSFER)
    with pytest.raises(FileExistsError, match="too many"):
        part.finish()
    part.close()


@pytest.mark.parametrize("name", ["../../up.txt", "/etc/passwd", ".hidden", "x" * 900, "ü" * 500])
def test_parts_of_hostile_names_stay_in_the_directory(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    part = Part.create(inner, part_of(name), TRANSFER)
    assert part.path.parent == inner and part.path.name.startswith(".")
    part.write(DATA)
    path = part.finish()
    assert path.parent == inner and not path.name.startswith(".")
    assert files_in(tmp_path) == {"inner"}


def leave_behind(directory: Path, length: int) -> Path:
    """Leave a part as a process does that is killed."""
    part = Part.create(directory, part_of(), TRANSFER)
    part.write(DATA[:length])
    part.close()
    return part.path


def test_another_process_goes_on(tmp_path: Path) -> None:
    path = leave_behind(tmp_path, 1000)
    assert find_parts(tmp_path) == [path]
    assert read_part_of(path) == part_of()
    part = Part.open(path)
    assert part is not None and part.of == part_of()
    assert part.transfer == TRANSFER
    part.recover()
    assert (part.offset, part.synced) == (1000, 1000)
    assert part.sha256 == hashlib.sha256(DATA[:1000]).hexdigest()
    part.write(DATA[1000:])
    assert part.finish().read_bytes() == DATA


def test_one_process_at_a_time(tmp_path: Path) -> None:
    part = Part.create(tmp_path, part_of(), TRANSFER)
    assert Part.open(part.path) is None
    part.close()
    again = Part.open(part.path)
    assert again is not None
    again.close()


def test_what_never_reached_the_disk_is_not_claimed(tmp_path: Path) -> None:
    part = Part.create(tmp_path, part_of(), TRANSFER)
    part.write(DATA[:1000])
    part.sync()
    part.write(DATA[1000:2000])
    part.close()
    # The machine fell over: the second kilobyte is what it was before, zeros.
    with part.path.open("r+b") as file:
        file.seek(1000)
        file.write(bytes(1000))
    again = Part.open(part.path)
    assert again is not None
    again.recover()
    assert again.offset == 1000
    again.write(DATA[1000:])
    assert again.finish().read_bytes() == DATA


@pytest.mark.parametrize("damage", ["cut", "changed", "records"])
def test_a_damaged_part_begins_anew(tmp_path: Path, damage: str) -> None:
    path = leave_behind(tmp_path, 1000)
    state = path.with_name(path.name + ".json")
    match damage:
        case "cut":
            os.truncate(path, 500)
        case "changed":
            path.write_bytes(bytes(1000))
        case "records":
            head = state.read_bytes().partition(b"\n")[0]
            state.write_bytes(head + b"\n" + b'{"offset": true}'.ljust(239) + b"\n[]")
    part = Part.open(path)
    assert part is not None
    part.recover()
    assert part.offset == 0
    part.write(DATA)
    assert part.finish().read_bytes() == DATA


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"no JSON\n",
        b"[]\n",
        b'{"version": 2}\n',
        b'{"version": 1}\n',
        b'{"version": 1, "account": "a", "name": 1, "size": 2, "sha256": "", "receiver": ""}\n',
        b'{"version": 1, "account": "a", "name": "", "size": "2", "sha256": "", "receiver": ""}\n',
        b'{"version": 1',
    ],
)
def test_a_state_that_says_nothing_is_no_part(tmp_path: Path, state: bytes) -> None:
    path = leave_behind(tmp_path, 1000)
    path.with_name(path.name + ".json").write_bytes(state)
    assert find_parts(tmp_path) == [path]
    assert read_part_of(path) is None
    assert Part.open(path) is None


def test_a_state_without_its_part(tmp_path: Path) -> None:
    path = leave_behind(tmp_path, 1000)
    path.unlink()
    assert Part.open(path) is None


def test_what_was_named_already_is_tidied_up(tmp_path: Path) -> None:
    path = leave_behind(tmp_path, len(DATA))
    os.link(path, tmp_path / NAME)
    assert Part.open(path) is None
    assert files_in(tmp_path) == {NAME}


class Killed(BaseException):
    """The process ends here."""


def finish_and_die(path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Give a part its name in a process that is killed before or after a call of `os`."""
    part = Part.open(path)
    assert part is not None
    part.recover()
    real = getattr(os, where.split()[1])

    def dying(*arguments: object, **options: object) -> None:
        if where.startswith("after"):
            real(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, where.split()[1], dying)
        with pytest.raises(Killed):
            part.finish()
    part.close()


@pytest.mark.parametrize("where", ["after link", "before unlink", "after unlink"])
@pytest.mark.parametrize("taken", [False, True])
def test_killed_once_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, taken: bool
) -> None:
    if taken:
        (tmp_path / NAME).write_text("mine")
    path = leave_behind(tmp_path, len(DATA))
    finish_and_die(path, monkeypatch, where)
    named = tmp_path / ("a (1).txt" if taken else NAME)
    part = Part.open(path)
    assert part is not None and part.named == named and part.transfer == TRANSFER
    part.recover()
    part.sync()
    assert (part.offset, part.sha256) == (len(DATA), part.of.sha256)
    assert part.finish() == named
    part.forget()
    assert files_in(tmp_path) == {NAME, named.name}
    assert named.read_bytes() == DATA


def test_killed_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = leave_behind(tmp_path, len(DATA))
    finish_and_die(path, monkeypatch, "before link")
    part = Part.open(path)
    assert part is not None and part.named is None
    part.recover()
    assert part.offset == len(DATA)
    assert part.finish() == tmp_path / NAME


def test_a_sender_that_insists_on_sending_a_named_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = leave_behind(tmp_path, len(DATA))
    finish_and_die(path, monkeypatch, "after link")
    part = Part.open(path)
    assert part is not None and part.offset == len(DATA)
    part.restart()
    assert part.offset == 0 and part.named is None
    part.write(DATA)
    assert part.finish() == tmp_path / "a (1).txt"


def test_a_named_file_is_not_remembered_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = leave_behind(tmp_path, len(DATA))
    finish_and_die(path, monkeypatch, "after link")
    os.utime(path.with_name(path.name + ".json"), (0, 0))
    assert Part.open(path) is None
    assert files_in(tmp_path) == {NAME}


@pytest.mark.parametrize("name", [b'"../up.txt"', b'""', b"7", b"no JSON"])
def test_a_record_of_a_name_that_is_none(tmp_path: Path, name: bytes) -> None:
    path = leave_behind(tmp_path, len(DATA))
    with path.with_name(path.name + ".json").open("ab") as state:
        state.write(name + b"\n")
    path.unlink()
    assert Part.open(path) is None


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    path = leave_behind(tmp_path, 1000)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        Part.open(path)
    assert victim.read_text() == "precious"


def test_beginning_anew(tmp_path: Path) -> None:
    part = Part.create(tmp_path, part_of(), TRANSFER)
    part.write(b"something else" * 1000)
    part.restart()
    assert (part.offset, part.synced) == (0, 0)
    part.write(DATA)
    assert part.sha256 == part.of.sha256
    assert part.finish().read_bytes() == DATA


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part.create(tmp_path, part_of(), TRANSFER)
    part.write(DATA[:1000])
    write = os.pwrite

    def full(fd: int, data: memoryview, offset: int) -> int:
        if offset >= 1500:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: 1500 - offset], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            part.write(DATA[1000:])
    assert part.offset == 1000
    part.close()
    again = Part.open(part.path)
    assert again is not None
    again.recover()
    assert again.offset == 1000
    again.discard()
    assert files_in(tmp_path) == set()


def test_recovering_stops_when_nobody_waits(tmp_path: Path) -> None:
    part = Part.open(leave_behind(tmp_path, 1000))
    assert part is not None
    part.stopped = True
    with pytest.raises(Stopped):
        part.recover()
    part.close()


def test_a_part_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.01234567.part").write_text("in the way")
    with pytest.raises(FileExistsError):
        Part.create(tmp_path, part_of(), TRANSFER)
    assert files_in(tmp_path) == {".a.txt.01234567.part"}
    with pytest.raises(FileNotFoundError):
        Part.create(tmp_path / "nowhere", part_of(), TRANSFER)


def test_a_part_knows_its_offer() -> None:
    of = part_of()
    offer = Offer(transfer="0" * 32, name=NAME, size=of.size, sha256=of.sha256)
    assert of.fits("alice", offer)
    assert not of.fits("bob", offer)


def test_free_bytes(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0
