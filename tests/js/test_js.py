"""tim.js: its types, its units and golden vectors in Node, and it against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"


@pytest.fixture(scope="module")
def installed() -> None:
    if not (MODULES / "typescript").is_dir():
        pytest.fail("tests/js/node_modules is missing; `make test` installs it")


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    """The address of a server in open mode, as tim.js takes it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tim_trio", "serve", "--tcp", "127.0.0.1:0", "--web", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = process.stdout.readline() + process.stdout.readline()
        found = re.search(r"^listening web (\S+)$", lines, re.MULTILINE)
        assert found is not None, lines
        try:
            yield f"ws://{found[1]}/ws"
        finally:
            process.terminate()
            process.wait(timeout=20)


def run_node(node: str, *arguments: str, **environment: str) -> None:
    """Run Node in this folder; its output is the failure's text. A hang is the test's timeout's."""
    result = subprocess.run(
        [node, *arguments],
        cwd=HERE,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        pytest.fail(f"{result.stdout[-8000:]}\n{result.stderr[-4000:]}", pytrace=False)


def test_golden_vectors(node: str) -> None:
    run_node(node, "--test", "--test-reporter=spec", "vectors.test.js", "files.test.js")


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("project", ["tsconfig.page.json", "tsconfig.json"])
def test_types(node: str, project: str) -> None:
    run_node(node, "node_modules/typescript/bin/tsc", "-p", project)


@pytest.mark.slow
def test_units(node: str) -> None:
    run_node(
        node,
        "--test",
        "--test-reporter=spec",
        "connection.test.js",
        "media.test.js",
        "links.test.js",
        "publisher.test.js",
        "strings.test.js",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_against_a_server(node: str, server_url: str) -> None:
    run_node(node, "--test", "--test-reporter=spec", "server.test.js", TIM_URL=server_url)
