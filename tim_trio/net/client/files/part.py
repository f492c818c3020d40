"""The file that is received: a hidden part first, its name only when it is whole.

Beside the part stands a small file that says what it is of and how much of it
is safe, so that another process can go on with it. Every function here blocks
on the disk; Trio calls them in a thread, one at a time per part.

::

    .film.mp4.3f9c0a12.part         the bytes
    .film.mp4.3f9c0a12.part.json    what they are of, and three records: how far
                                    they have been written, how far synced, and
                                    the name that they get

The small file stays until the sender has been told that all is there. Without
the part it says that the part has got its name: a process that was killed just
then is not followed by one that fetches the file a second time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Final

import attrs

from tim_trio.net.client.files.messages import Offer
from tim_trio.net.client.files.names import numbered, safe_name, shortened
from tim_trio.net.client.files.threads import Stopped

READ_BYTES: Final = 1024 * 1024
SYNC_INTERVAL_S: Final = 1.0
PART: Final = ".part"
STATE: Final = ".part.json"
_VERSION: Final = 1
#: Each record has a place of its own, so that one write replaces it whole.
_RECORD_BYTES: Final = 240
#: Of the name, whose every byte may be escaped.
_NAME_RECORD_BYTES: Final = 2048
#: So long a sender may take to come back for the word that all is there.
_REMEMBERED_S: Final = 24 * 60 * 60.0
_MAX_STATE_BYTES: Final = 16 * 1024
_ID_SHOWN: Final = 8
#: What the name of a part has beside the file's own, and may have at most.
_NAME_BYTES: Final = 200
_MAX_NUMBER: Final = 9999
#: What a file system without hard links answers to `link`.
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


@attrs.frozen(kw_only=True)
class PartOf:
    """What a part is of: enough to know the file again when it is offered again."""

    account: str
    name: str
    size: int
    sha256: str
    receiver: str

    def fits(self, account: str, offer: Offer) -> bool:
        """Say whether that offer is of the same file."""
        return (account, offer.name, offer.size, offer.sha256) == (
            self.account,
            self.name,
            self.size,
            self.sha256,
        )


@attrs.define(eq=False)
class Part:
    """A part that this process holds, locked against others.

    Attributes:
        of: what it is of.
        offset: bytes that are written.
        synced: bytes that have reached the disk.
        transfer: under which it comes, or came last; written with the records.
        named: the file, where it has got its name already, in another process
            that could not say so. All is there then, and nothing is to be done.
        stopped: `recover` is to raise Stopped soon.
    """

    of: PartOf
    path: Path
    offset: int = 0
    synced: int = 0
    transfer: str = ""
    named: Path | None = None
    stopped: bool = False
    _fd: int = -1
    _state_fd: int = -1
    _records_at: int = 0
    _sha: hashlib._Hash = attrs.Factory(hashlib.sha256)
    _synced_at: float = 0.0

    @classmethod
    def create(cls, directory: Path, of: PartOf, transfer: str) -> Part:
        """Make an empty part.

        Raises:
            OSError: it cannot be made.
        """
        name = f".{shortened(safe_name(of.name), _NAME_BYTES)}.{of.receiver[:_ID_SHOWN]}{PART}"
        part = cls(of, directory / name, transfer=transfer)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            # Before the part: a part without it would never be looked at again.
            part._state_fd = os.open(part._state_path, flags, 0o600)
            part._fd = os.open(part.path, flags, 0o666)
            fcntl.flock(part._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            head = json.dumps({"version": _VERSION, **attrs.asdict(of)}).encode() + b"\n"
            part._records_at = len(head)
            _write_all(part._state_fd, head, 0)
            part._record(0)
            part._record(1)
        except BaseException:
            # Only what is ours: something else may have been in the way.
            if part._fd >= 0:
                part.path.unlink()
            if part._state_fd >= 0:
                part._state_path.unlink()
            part.close()
            raise
        return part

    @classmethod
    def open(cls, path: Path) -> Part | None:
        """Open a part that was left behind; None where another process has it, or it is none.

        Its bytes are not looked at before `recover`.

        Raises:
            OSError: it cannot be opened.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        state_fd = fd = -1
        part = None
        try:
            state_fd = os.open(path.with_name(path.name + STATE.removeprefix(PART)), flags)
            found = _read_state(state_fd)
            try:
                fd = os.open(path, flags)
            except FileNotFoundError:
                links = 0
            else:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                links = os.fstat(fd).st_nlink
            if found is not None:
                of, records_at = found
                part = cls(of, path, fd=fd, state_fd=state_fd, records_at=records_at)
                part = part._look_for_name(links)
        except (FileNotFoundError, BlockingIOError):
            part = None
        except BaseException:
            _close(fd, state_fd)
            raise
        if part is None:
            _close(fd, state_fd)
        return part

    def _look_for_name(self, links: int) -> Part | None:
        """Return the part as its last owner left it, None where nothing is left.

        ``links`` is how many names its bytes have: none without a part, two between
        getting the file's own and losing the part's.
        """
        name = self._read_name()
        self.transfer = self._read_record(0)[2] or self._read_record(1)[2]
        if links == 1:
            if name:
                self._record_name("")  # it was not to be
            return self
        self.path.unlink(missing_ok=True)
        is_stale = time.time() - os.fstat(self._state_fd).st_mtime > _REMEMBERED_S
        if not name or is_stale:
            if links or is_stale:
                self._state_path.unlink(missing_ok=True)
            return None
        self.named = self.path.with_name(name)
        self.offset = self.synced = self.of.size
        return self

    @property
    def _state_path(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def sha256(self) -> str:
        """Digest of the bytes that are written, in hex."""
        if self.named is not None:
            return self.of.sha256
        return self._sha.hexdigest()

    def recover(self) -> None:
        """Read what is there, and keep as much of it as the records vouch for.

        What was written when the process was killed is there; after the
        machine itself fell over, only what was synced is. The digest says.

        Raises:
            OSError: it cannot be read.
        """
        if self.named is not None:
            return
        records = sorted((self._read_record(0), self._read_record(1)), key=lambda record: record[0])
        sha = hashlib.sha256()
        good, good_sha = 0, sha.copy()
        offset = 0
        for length, digest, _ in records:
            while offset < length:
                data = os.pread(self._fd, min(READ_BYTES, length - offset), offset)
                if not data:
                    break
                if self.stopped:
                    raise Stopped
                sha.update(data)
                offset += len(data)
                self.offset = offset
            if offset == length and sha.hexdigest() == digest:
                good, good_sha = offset, sha.copy()
        self.offset, self._sha = good, good_sha
        self.sync()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            OSError: the disk is full, or the like; the part stands where it stood.
        """
        _write_all(self._fd, data, self.offset)
        self._sha.update(data)
        self.offset += len(data)
        self._record(0)
        if time.monotonic() - self._synced_at >= SYNC_INTERVAL_S:
            self.sync()

    def sync(self) -> None:
        """Wait until what is written has reached the disk.

        Raises:
            OSError: it has not.
        """
        if self.named is not None:
            return
        os.fsync(self._fd)
        self.synced = self.offset
        self._record(0)
        self._record(1)
        os.fsync(self._state_fd)
        self._synced_at = time.monotonic()

    def restart(self) -> None:
        """Forget what was received.

        Raises:
            OSError: the part cannot be cut.
        """
        if self.named is not None:
            # Its sender insists on sending all of it: as another file, then.
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            _close(self._fd)
            self._fd = os.open(self.path, flags, 0o666)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.named = None
            self._record_name("")
        self.offset = self.synced = 0
        self._sha = hashlib.sha256()
        self._record(0)
        self._record(1)
        os.ftruncate(self._fd, 0)

    def finish(self) -> Path:
        """Give the file its name, or ``name (1)`` and so on; never over another file.

        Call it when all is there and its digest is right. The part is closed; call
        `forget` once its sender knows.

        Raises:
            OSError: it cannot be named; the part stays.
        """
        path = self.named
        if path is None:
            os.ftruncate(self._fd, self.offset)
            self.sync()
            try:
                path = self._give_name()
            except OSError:
                self._record_name("")
                raise
        self.close()
        self.path.unlink(missing_ok=True)
        _sync_directory(path.parent)
        return path

    def forget(self) -> None:
        """The sender knows that all is there: nobody will ask again. Idempotent."""
        self._state_path.unlink(missing_ok=True)

    def _give_name(self) -> Path:
        name = safe_name(self.of.name)
        for number in range(_MAX_NUMBER + 1):
            path = self.path.with_name(numbered(name, number))
            # What it is called is known before it is: a process may be killed between.
            self._record_name(path.name)
            os.fsync(self._state_fd)
            try:
                os.link(self.path, path, follow_symlinks=False)
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # Without links: take the name first, empty, and replace our own.
                try:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
                except FileExistsError:
                    continue
                os.replace(self.path, path)
            return path
        raise FileExistsError(errno.EEXIST, "there are too many files of that name")

    def discard(self) -> None:
        """Throw the part away. Idempotent."""
        self.path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the part; it stays where it is. Idempotent."""
        _close(self._fd, self._state_fd)
        self._fd = self._state_fd = -1

    def _record(self, number: int) -> None:
        """Write how far the bytes go: 0 for written, 1 for synced."""
        members = {"offset": self.offset, "sha256": self.sha256, "transfer": self.transfer}
        record = json.dumps(members).encode()
        line = record.ljust(_RECORD_BYTES - 1) + b"\n"
        _write_all(self._state_fd, line, self._records_at + number * _RECORD_BYTES)

    def _read_record(self, number: int) -> tuple[int, str, str]:
        """Return offset, digest and transfer; nothing for what was torn in a machine's fall."""
        line = os.pread(self._state_fd, _RECORD_BYTES, self._records_at + number * _RECORD_BYTES)
        try:
            record = json.loads(line)
            length = record["offset"]
            digest, transfer = str(record["sha256"]), str(record["transfer"])
            if isinstance(length, int) and 0 <= length <= self.of.size:
                return length, digest, transfer
        except (ValueError, TypeError, KeyError):
            pass
        return 0, "", ""

    def _record_name(self, name: str) -> None:
        """Write what the file is going to be called; nothing for not yet."""
        line = json.dumps(name).encode().ljust(_NAME_RECORD_BYTES - 1) + b"\n"
        _write_all(self._state_fd, line, self._records_at + 2 * _RECORD_BYTES)

    def _read_name(self) -> str:
        offset = self._records_at + 2 * _RECORD_BYTES
        line = os.pread(self._state_fd, _NAME_RECORD_BYTES, offset)
        try:
            name = json.loads(line)
        except ValueError:
            return ""
        # Never out of the directory, whoever wrote it.
        return name if isinstance(name, str) and name == os.path.basename(name) else ""


def find_parts(directory: Path) -> list[Path]:
    """Return the parts that stand in a directory.

    Raises:
        OSError: it cannot be listed.
    """
    return sorted(
        directory / name[: -len(".json")]
        for name in os.listdir(directory)
        if name.startswith(".") and name.endswith(STATE)
    )


def read_part_of(path: Path) -> PartOf | None:
    """Say what a part is of, without taking it; None where that is not told.

    Raises:
        OSError: it cannot be read.
    """
    fd = os.open(path.with_name(path.name + ".json"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = _read_state(fd)
    finally:
        os.close(fd)
    return None if found is None else found[0]


def free_bytes(directory: Path) -> int:
    """Return what fits on the disk of a directory."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def _read_state(fd: int) -> tuple[PartOf, int] | None:
    """Return what a part is of, and where its records stand."""
    head, line_end, _ = os.pread(fd, _MAX_STATE_BYTES, 0).partition(b"\n")
    try:
        members = json.loads(head)
        if not line_end or members.pop("version") != _VERSION:
            return None
        of = PartOf(**members)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    texts = (of.account, of.name, of.sha256, of.receiver)
    if not all(isinstance(text, str) for text in texts) or not isinstance(of.size, int):
        return None
    return of, len(head) + 1


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError:
        pass  # some file systems cannot; the file itself is safe
    finally:
        os.close(fd)


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
