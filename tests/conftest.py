"""What all tests share: how hard hypothesis works, and the programs tests need."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.postgresql_process import PostgresqlServer, running_postgresql
from tim_trio.accounts.store import default_database_url

if TYPE_CHECKING:
    from playwright.sync_api import Playwright

_numbers = itertools.count()

#: What takes the whole machine, or looks at a clock: `make test` runs it one by
#: one, after all else, which may run side by side.
_ALONE = {
    *("browser", "e2e", "soak", "test_storms.py"),
    *("test_cut_off.py", "test_failover.py", "test_without_etcd.py"),
}
#: Each test of these starts programs or a cluster, so that `make check` leaves them out.
_SLOW = {
    *("test_across.py", "test_cluster.py", "test_link_tls.py", "test_membership.py"),
    *("test_app.py", "test_cli_account.py", "test_plain_client.py", "test_postgresql.py"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        parts = item.path.relative_to(here).parts
        if not _ALONE.isdisjoint(parts):
            item.add_marker(pytest.mark.alone)
        if not _SLOW.isdisjoint(parts):
            item.add_marker(pytest.mark.slow)


# No deadline: the machine may be busy, and nothing here asserts a speed.
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile(
    "quick",
    parent=settings.get_profile("default"),
    max_examples=20,
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        # Never a skip: a run that did not test it must not look like one that did.
        pytest.fail(f"{name} is missing; `make test` installs it")
    return path


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """Path of the ffmpeg program."""
    return _program("ffmpeg")


@pytest.fixture(scope="session")
def ffprobe() -> str:
    """Path of the ffprobe program."""
    return _program("ffprobe")


@pytest.fixture(scope="session")
def node() -> str:
    """Path of the node program."""
    return _program("node")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """One PostgreSQL for all tests; each has a schema of its own."""
    with running_postgresql() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql: PostgresqlServer) -> Iterator[str]:
    """An empty schema of its own."""
    with postgresql.schema(f"test_{next(_numbers)}") as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return default_database_url(tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each kind of database that accounts may be in, empty."""
    url = request.getfixturevalue(f"{request.param}_url")
    assert isinstance(url, str)
    return url


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """What drives browsers: one for a run, as there may be one only."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright
