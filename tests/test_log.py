import itertools
import json
import logging
import os
import pty
import select
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tim_trio.log import LineSink, StormLimiter, get_logger, setup_logging


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A reading and a writing end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def drain(fd: int) -> bytes:
    chunks = []
    while select.select([fd], [], [], 0)[0] and (chunk := os.read(fd, 65536)):
        chunks.append(chunk)
    return b"".join(chunks)


def json_lines(fd: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in drain(fd).splitlines()]


# Form


def test_json_where_nobody_looks(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log = get_logger("server")  # before the setup, as at import
    setup_logging(fd=writing)
    log.info("room registered", room="NGhMpCbk2wQ", name="é\n")
    (line,) = json_lines(reading)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "component": "server",
        "event": "room registered",
        "level": "info",
        "room": "NGhMpCbk2wQ",
        "name": "é\n",
    }


@pytest.mark.parametrize("log_format", ["auto", "console"])
def test_readable_on_a_terminal(log_format: Literal["auto", "console"]) -> None:
    ours, terminal = pty.openpty()
    try:
        setup_logging(fd=terminal, log_format=log_format)
        get_logger("server").warning("subscriber lags", room="NGhMpCbk2wQ")
        text = drain(ours).decode()
    finally:
        os.close(ours)
        os.close(terminal)
    assert "subscriber lags" in text
    assert "NGhMpCbk2wQ" in text
    assert "\x1b[" in text, "colours"


def test_console_form_in_a_pipe_has_no_colours(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    setup_logging(fd=writing, log_format="console")
    get_logger("server").info("hello", agent="x\x1b[2J\nfake line")
    text = drain(reading).decode()
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "fake line" in text


@given(st.text())
def test_console_lines_hold_only_what_can_be_printed(text: str) -> None:
    reading, writing = os.pipe()
    try:
        setup_logging(fd=writing, log_format="console")
        get_logger("server").info("hello", account=text)
        line = drain(reading).decode()
    finally:
        os.close(reading)
        os.close(writing)
    assert line.endswith("\n")
    assert line[:-1].isprintable()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_exception_is_logged_without_local_variables(
    log_format: Literal["console", "json"], pipe: tuple[int, int]
) -> None:
    reading, writing = pipe
    setup_logging(fd=writing, log_format=log_format)
    try:
        marker = "hunter" + "2"
        raise KeyError(len(marker))
    except KeyError:
        get_logger("server").exception("handler failed")
    text = drain(reading).decode()
    assert "KeyError" in text
    assert "test_log.py" in text
    assert "hunter2" not in text


def test_levels_below_the_chosen_one_are_silent(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    setup_logging(fd=writing, log_level="warning")
    log = get_logger("server")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    log.critical("e")
    assert [line["event"] for line in json_lines(reading)] == ["c", "d", "e"]


def test_the_standard_library_s_lines_go_the_same_way(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    setup_logging(fd=writing)
    logging.getLogger("dependency").info("too chatty")
    logging.getLogger("dependency").warning("%d frames", 3)
    (line,) = json_lines(reading)
    assert (line["component"], line["level"], line["event"]) == (
        "dependency",
        "warning",
        "3 frames",
    )


def test_a_malformed_line_of_the_standard_library_s_breaks_nothing(
    pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = pipe
    setup_logging(fd=writing)
    logging.getLogger("dependency").warning("%d", "three")
    assert drain(reading) == b""
    assert "Logging error" in capsys.readouterr().err


def test_a_logger_without_a_name_names_no_component(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    setup_logging(fd=writing)
    structlog.get_logger().info("hello")
    (line,) = json_lines(reading)
    assert "component" not in line


# Secrets


def test_secrets_are_left_out(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    setup_logging(fd=writing)
    get_logger("server").bind(token=b"hunter2").info(
        "authenticated",
        account="alice",
        password="hunter2",
        request={"secret": "hunter2", "session_token": "hunter2", "method": 1},
    )
    text = drain(reading).decode()
    assert "hunter2" not in text
    line = json.loads(text)
    assert line["account"] == "alice"
    assert line["request"] == {"method": 1}


# A reader that stops


def test_a_full_pipe_loses_lines_and_blocks_nobody(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    setup_logging(fd=writing)
    log = get_logger("server")
    for number in range(2_000):  # a pipe holds 64 KiB; blocking would hang here
        log.info("event", number=number, padding="x" * 100)
    before = json_lines(reading)
    assert [line["number"] for line in before[:-1]] == list(range(len(before) - 1))
    log.info("after")
    log.info("later")
    lines = json_lines(reading)
    after = lines[-2]
    assert after["event"] == "after"
    assert after["lost_lines"] == 2_000 - len(before)
    assert "lost_lines" not in lines[-1]


def test_a_line_longer_than_the_pipe_is_finished_later(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = LineSink(writing)
    sink.write_line("x" * 200_000)
    sink.write_line("lost: the line before is not out yet")
    got = b""
    while b"\n" not in got:
        got += drain(reading)
        sink.write_line("next")
    got += drain(reading)
    first, _, others = got.partition(b"\n")
    assert first == b"x" * 200_000
    assert set(others.splitlines()) == {b"next"}
    assert sink.lost_lines == 0


def test_a_reader_that_is_gone_breaks_nothing() -> None:
    reading, writing = os.pipe()
    sink = LineSink(writing)
    os.close(reading)
    sink.write_line("nobody")
    os.close(writing)
    assert sink.lost_lines == 1


def test_text_that_is_no_unicode_is_escaped(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    LineSink(writing).write_line("a\udc80b")
    assert drain(reading) == b"a\\udc80b\n"


# Storms


def test_one_line_an_interval_and_a_count_of_the_rest() -> None:
    storms = StormLimiter(1.0)
    assert storms.admit("lagging", 10.0) == 0
    assert storms.admit("lagging", 10.5) is None
    assert storms.admit("lagging", 10.999) is None
    assert storms.admit("lagging", 11.0) == 2
    assert storms.admit("lagging", 11.5) is None
    assert storms.admit("lagging", 50.0) == 1
    assert storms.admit("lagging", 60.0) == 0


def test_kinds_do_not_silence_each_other() -> None:
    storms = StormLimiter()
    assert storms.admit("lagging", 0.0) == 0
    assert storms.admit("refused", 0.0) == 0
    assert storms.admit("lagging", 0.1) is None


def test_what_a_storm_left_unsaid_is_said_once() -> None:
    storms = StormLimiter(1.0)
    for now in (0.0, 0.1, 0.2):
        storms.admit("lagging", now)
    storms.admit("refused", 0.2)
    assert list(storms.flush(0.9)) == []
    assert list(storms.flush(1.0)) == [("lagging", 2)]
    assert storms.admit("lagging", 1.5) is None, "the flush was this interval's line"
    assert list(storms.flush(1.9)) == []
    assert list(storms.flush(2.0)) == [("lagging", 1)]
    assert list(storms.flush(3.0)) == []
    assert storms.admit("lagging", 3.0) == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2))))
def test_every_event_is_a_line_or_counted_in_one(steps: list[tuple[bool, float]]) -> None:
    storms = StormLimiter(1.0)
    now, events, told = 0.0, 0, 0
    spoken: list[float] = []
    for is_flush, pause in steps:
        now += pause
        if is_flush:
            for _, suppressed in storms.flush(now):
                told += suppressed
                spoken.append(now)
        else:
            events += 1
            suppressed_before = storms.admit("kind", now)
            if suppressed_before is not None:
                told += 1 + suppressed_before
                spoken.append(now)
    told += sum(suppressed for _, suppressed in storms.flush(now + 10))
    assert told == events
    assert all(later - earlier >= 0.999 for earlier, later in itertools.pairwise(spoken))
