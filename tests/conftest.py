"""What all tests share: how hard hypothesis works, and the programs tests need."""

import shutil

import pytest
from hypothesis import HealthCheck, settings

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
