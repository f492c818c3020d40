"""The README's programs, run as they are written but for the server's port and the room."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import trio

import tim_trio
from tests.net.rawclient import DEADLINE_S
from tests.net.running import running_server

ROOT = Path(__file__).resolve().parent.parent
READMES = pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
PAGES = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))


def programs(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


async def run(program: str, port: int, room: str) -> str:
    """Run a program to its end and return what it prints."""
    assert "127.0.0.1:7600" in program
    program = program.replace("127.0.0.1:7600", f"127.0.0.1:{port}").replace("NGhMpCbk2wQ", room)
    with trio.fail_after(DEADLINE_S):
        done = await trio.run_process(
            [sys.executable, "-c", program], capture_stdout=True, cwd=ROOT
        )
    printed: str = done.stdout.decode()
    return printed


@READMES
async def test_publishing(readme: str) -> None:
    publish, _ = programs(ROOT / readme)
    async with running_server() as running:
        room = (await run(publish, running.port, "")).strip()
        (registered,) = running.manager.rooms.values()
        assert (str(registered), registered.frames_in) == (room, 2)


@READMES
async def test_watching(readme: str) -> None:
    _, watch = programs(ROOT / readme)
    async with (
        running_server() as running,
        tim_trio.connect(f"tim://127.0.0.1:{running.port}", account="alice") as client,
        trio.open_nursery() as nursery,
    ):
        room = await client.register_room()
        printed: list[str] = []

        async def keep() -> None:
            printed.append(await run(watch, running.port, room))

        nursery.start_soon(keep)
        async with client.publish(room) as source:
            with trio.fail_after(DEADLINE_S):
                await source.wait_viewers(1)
            await source.send(b"first", key=True)
            await source.send(b"second")
        await client.remove_room(room)
    assert printed == ["0 b'first'\n1 b'second'\n"]


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name) for page in PAGES if programs(page)]
)
def test_programs_in_the_docs_are_python_and_name_what_there_is(page: Path) -> None:
    for program in programs(page):
        tree = compile(
            program, page.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "tim_trio" or hasattr(tim_trio, node.attr), node.attr
            if isinstance(node, ast.ImportFrom) and node.module == "tim_trio":
                for name in node.names:
                    assert hasattr(tim_trio, name.name), name.name
