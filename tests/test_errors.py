"""The error tree, and codes that agree with protocol.md."""

import re
from pathlib import Path

import pytest

from tim_trio import errors
from tim_trio.errors import (
    BadRequest,
    ClusterError,
    Code,
    ConnectionClosed,
    CreatorAbsent,
    LocalProtocolError,
    NoSuchRoom,
    NotAuthenticated,
    NotSupported,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RemoteProtocolError,
    RoomError,
    TimError,
    code_label,
    is_retryable,
    room_error,
)

PROTOCOL = Path(__file__).resolve().parent.parent / "protocol.md"


def test_codes_are_those_of_protocol_md() -> None:
    section = PROTOCOL.read_text(encoding="utf-8").split("## 14 Codes")[1].split("## 15")[0]
    rows = re.findall(r"^\| (\d{4}) \| `(\w+)` \|", section, re.MULTILINE)
    assert {int(number): name for number, name in rows} == {code: code.label for code in Code}
    assert len(rows) == len(Code)


@pytest.mark.parametrize(
    "code, retryable",
    [
        (999, False),
        (1000, True),
        (1099, True),
        (1100, False),
        (1199, False),
        (1999, False),
        (2000, True),
        (2099, True),
        (2100, False),
        (2199, False),
    ],
)
def test_the_range_says_whether_to_retry(code: int, retryable: bool) -> None:
    assert is_retryable(code) is retryable
    assert room_error(code).retryable is retryable
    assert ConnectionClosed(code).retryable is retryable


def test_the_tree() -> None:
    assert {
        kind.__base__ for kind in (ProtocolError, RoomError, ConnectionClosed, ClusterError)
    } == {TimError}
    assert {kind.__base__ for kind in (LocalProtocolError, RemoteProtocolError)} == {ProtocolError}
    public = [
        value for value in vars(errors).values() if isinstance(value, type) and value is not Code
    ]
    assert all(issubclass(kind, TimError) for kind in public)


def test_the_peers_fault_carries_a_close_code() -> None:
    assert RemoteProtocolError("why").code is Code.PROTOCOL_ERROR
    error = RemoteProtocolError("why", Code.FRAME_TOO_LARGE)
    assert error.code is Code.FRAME_TOO_LARGE
    assert str(error) == "why"


@pytest.mark.parametrize(
    "code, kind",
    [
        (Code.BAD_REQUEST, BadRequest),
        (Code.NOT_SUPPORTED, NotSupported),
        (Code.NOT_AUTHENTICATED, NotAuthenticated),
        (Code.RATE_LIMITED, RateLimited),
        (Code.NO_SUCH_ROOM, NoSuchRoom),
        (Code.PERMISSION_DENIED, PermissionDenied),
        (Code.CREATOR_ABSENT, CreatorAbsent),
        (Code.TOKEN_IN_USE, RoomError),
        (2150, RoomError),
    ],
)
def test_a_room_error_is_of_its_codes_kind(code: int, kind: type[RoomError]) -> None:
    error = room_error(int(code), "text", retry_after_ms=7)
    assert type(error) is kind
    assert (error.code, error.text, error.retry_after_ms) == (code, "text", 7)
    assert str(error) == "text"


def test_a_room_error_without_text_is_named_by_its_code() -> None:
    assert str(room_error(Code.NO_SUCH_ROOM)) == "no such room"
    assert str(room_error(2150)) == "code 2150"
    assert room_error(Code.NO_SUCH_ROOM).retry_after_ms == 0


def test_code_label() -> None:
    assert code_label(1005) == "slow_consumer"
    assert code_label(4711) == "code 4711"


def test_connection_closed() -> None:
    lost = ConnectionClosed()
    assert (lost.code, lost.text, lost.retry_after_ms, lost.retryable) == (None, "", 0, True)
    assert str(lost) == "connection lost"
    assert str(ConnectionClosed(None, "reset")) == "connection lost (reset)"
    closed = ConnectionClosed(Code.SHUTTING_DOWN, "soon", retry_after_ms=500)
    assert (closed.code, closed.retry_after_ms) == (1001, 500)
    assert str(closed) == "closed: shutting_down (soon)"
    assert str(ConnectionClosed(Code.BYE)) == "closed: bye"
