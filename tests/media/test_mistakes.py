"""Mistakes with media: one line that says what to do, before anyone connects anywhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.test_cli import ROOM, CommandLine, command_line

__all__ = ["command_line"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "text.mp4").write_text("this is no film\n" * 1000)
    (tmp_path / "empty.mkv").touch()
    (tmp_path / "titles.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    return tmp_path


@pytest.mark.parametrize(
    "arguments, code, complaint",
    [
        ("push --media {}/no.mp4", 1, "cannot read .*no.mp4: No such file or directory"),
        ("push --media {}", 1, "cannot read .*: Is a directory"),
        ("push --media {}/text.mp4", 1, "cannot read .*: it is no media that FFmpeg knows"),
        ("push --media {}/empty.mkv", 1, "cannot read .*empty.mkv: "),
        ("push --media {}/titles.srt", 1, "titles.srt has neither video nor sound"),
        ("push --media nope://x/y", 1, "cannot read nope://x/y: Protocol not found"),
        ("push --media http://127.0.0.1:1/x", 1, "cannot read .*: Connection refused"),
        ("push --media --rate 2M {}", 2, "--media goes by its timestamps: --rate 0 or none"),
        ("push --media --loop -", 2, "standard input cannot begin again: leave out --loop"),
        ("push --loop {}", 2, "--loop needs --media"),
        ("watch --media ROOM --out x.avi", 2, r"must end in \.mkv, \.webm, \.mp4"),
        ("watch --media ROOM --track 1 --out x.mkv", 2, "writes all tracks: leave out --track"),
        ("watch --media ROOM --out {}/no/x.mkv", 1, "cannot write .*: there is no such directory"),
        ("watch --media ROOM --out {}/x.mkv --server tim://127.0.0.1:1", 1, "no server at tim:"),
    ],
)
def test_one_line(
    arguments: str, code: int, complaint: str, files: Path, command_line: CommandLine
) -> None:
    words = [each.format(files).replace("ROOM", ROOM) for each in arguments.split()]
    actual, out, err = command_line(*words)
    assert re.fullmatch(rf"error: .*{complaint}.*\n", err), err
    assert (actual, out) == (code, "")
    assert not list(files.glob("x*"))


def test_without_the_extra_it_says_how_to_install_it(
    files: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    expected = (1, "", 'error: media needs PyAV: pip install "tim_trio[media]"\n')
    assert command_line("push", "--media", files / "text.mp4") == expected
    assert command_line("watch", "--media", ROOM, "--out", files / "x.mkv") == expected


def test_a_terminal_is_no_player(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, _, err = command_line("watch", "--media", ROOM)
    assert (code, "give --out FILE, or pipe the output into a player" in err) == (2, True)
