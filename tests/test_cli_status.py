"""``status`` as people use it, against a real server."""

from __future__ import annotations

import pytest

from tests.test_cli_end_to_end import CommandLine, command_line, server

__all__ = ["command_line", "server"]  # fixtures

pytestmark = pytest.mark.slow  # every command is a process that starts


def test_status(command_line: CommandLine) -> None:
    room = command_line.register()
    watcher = command_line.start("watch", room, "--quiet", "--account", "bob")
    command_line.until_watched(room, 1)
    code, out, err = command_line.run("status", "--interval", "0.1", "--top", "100")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["node", "serving", "in", "out", "lagging"]
    (row,) = [line for line in lines if line.startswith(room)]
    assert row.split()[1:4] == ["live", "1", "0"]

    code, out, err = command_line.run("status", room, "--interval", "0.1")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:3] == ["bob", "keeps", "up"]
    watcher.kill()

    code, out, err = command_line.run("status", "NGhMpCbk2wQ")
    assert (code, out) == (1, "")
    assert err == "error: room NGhMpCbk2wQ does not exist, or has ended\n"
    code, out, err = command_line.run("status", "--node", "elsewhere")
    assert (code, out, err) == (1, "", "error: the server says: no such node\n")
