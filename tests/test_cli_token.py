"""``push --token``: the file, and where a push that is started again goes on."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import click
import pytest

from tim_trio.cli.push import _payloads, _skip
from tim_trio.cli.token import read_token
from tim_trio.net.client import Source


def test_a_token_is_made_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = read_token(path)
    assert len(token) == 16
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == f"{token.hex()}\n"
    assert read_token(path) == token


@pytest.mark.parametrize("text", ["", "00", "zz" * 16, "00" * 17, "\xe9" * 32])
def test_another_file_is_no_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(click.ClickException, match="holds no token: that is 32 characters of hex"):
        read_token(path)
    assert path.read_text() == text


def test_a_token_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="No such file"):
        read_token(tmp_path / "none" / "token")


def source(frames: int, *, ended: bool = False) -> Source:
    fake = SimpleNamespace(next_seq=lambda _: frames + ended, has_ended=lambda _: ended)
    return cast(Source, fake)


def opened(tmp_path: Path, data: bytes) -> int:
    path = tmp_path / "input"
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


def piped(data: bytes) -> int:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize(
    "frames, done, rest",
    [(0, 0, b"0123456789"), (2, 8, b"89"), (3, 10, b"")],
)
async def test_a_push_goes_on_behind_what_was_pushed(
    tmp_path: Path, pipe: bool, frames: int, done: int, rest: bytes
) -> None:
    fd = piped(b"0123456789") if pipe else opened(tmp_path, b"0123456789")
    try:
        assert await _skip(fd, source(frames), 0, 4) == done
        assert b"".join([piece async for piece in _payloads(fd, 4, whole=True)]) == rest
    finally:
        os.close(fd)


@pytest.mark.parametrize("pipe", [False, True])
async def test_an_input_that_does_not_fit(tmp_path: Path, pipe: bool) -> None:
    fd = piped(b"0123456789") if pipe else opened(tmp_path, b"0123456789")
    try:
        with pytest.raises(click.ClickException, match=r"4 frames of 4 bytes .* only 10 bytes"):
            await _skip(fd, source(4), 0, 4)
    finally:
        os.close(fd)


async def test_after_the_end_there_is_nothing_more(tmp_path: Path) -> None:
    fd = opened(tmp_path, b"0123456789")
    try:
        assert await _skip(fd, source(3, ended=True), 0, 4) == 10
    finally:
        os.close(fd)


async def test_pieces_are_whole_however_a_pipe_gives_them() -> None:
    reader, writer = os.pipe()
    pieces = []
    try:
        os.write(writer, b"01")
        generator = _payloads(reader, 4, whole=True)
        os.write(writer, b"23456")
        pieces.append(await anext(generator))
        os.write(writer, b"789")
        os.close(writer)
        pieces += [piece async for piece in generator]
        assert pieces == [b"0123", b"4567", b"89"]
    finally:
        os.close(reader)
