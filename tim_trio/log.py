"""Logging: one line per event on standard error, for a person or for a program.

A program that embeds the library configures structlog itself; only the command
line calls :func:`setup_logging`.

Logging never stands in the way of data. A line goes out only while standard
error takes it without blocking: when whoever reads our log has stopped reading,
lines are lost, and the next one that gets through says how many.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Hashable, Iterator, Mapping, MutableMapping
from typing import Any, Literal

import attrs
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

SECRET_KEYS = frozenset({"secret", "password", "token", "session_token"})

# What POLLOUT promises for a pipe on Linux: this much is taken without blocking.
_CHUNK_BYTES = select.PIPE_BUF


def get_logger(component: str) -> FilteringBoundLogger:
    """Return a logger whose lines name ``component``, such as ``"server"``.

    May be called before :func:`setup_logging`, at import for example.
    """
    logger: FilteringBoundLogger = structlog.get_logger(component)
    return logger


def setup_logging(
    *,
    log_format: Literal["auto", "console", "json"] = "auto",
    log_level: Literal["debug", "info", "warning", "error"] = "info",
    fd: int = 2,
) -> None:
    """Send all log lines to ``fd`` from now on.

    ``auto`` is ``console`` when ``fd`` is a terminal and ``json`` otherwise.
    Lines of the standard library's ``logging`` (our dependencies use it) go the
    same way, from level warning up. May be called again.
    """
    on_terminal = os.isatty(fd)
    sink = LineSink(fd)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_component,
        drop_secrets,
        structlog.processors.add_log_level,
        sink.add_lost_lines,
    ]
    if log_format == "console" or (log_format == "auto" and on_terminal):
        form: list[Processor] = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            escape_unprintable,
            structlog.dev.ConsoleRenderer(
                colors=on_terminal,
                pad_event_to=24,
                # Not the default, which may print local variables, secrets included.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    else:
        form = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=[*shared, *form],
        wrapper_class=structlog.make_filtering_bound_logger(log_level),
        logger_factory=lambda component="": _Output(sink, component),
        # Loggers are made at import, before this runs, and tests set up again.
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)


class LineSink:
    """Writes lines to a file descriptor, or drops and counts them; never blocks."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._rest = b""  # of a line that was taken in part; it goes first
        self.lost_lines = 0

    def write_line(self, line: str) -> None:
        """Write ``line`` and a line end if the reader takes it now, else count it as lost."""
        if self._rest:
            self._rest = self._push(self._rest)
        if self._rest:
            self.lost_lines += 1
            return
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        rest = self._push(data)
        if len(rest) == len(data):
            self.lost_lines += 1
        else:
            self._rest = rest
            self.lost_lines = 0

    def add_lost_lines(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """As a processor: say in this line how many before it were lost."""
        if self.lost_lines:
            event["lost_lines"] = self.lost_lines
        return event

    def _push(self, data: bytes) -> bytes:
        """Write what is taken without blocking and return the rest."""
        while data and self._is_writable():
            try:
                written = os.write(self._fd, data[:_CHUNK_BYTES])
            except OSError:
                break  # gone, or full after all; there is nowhere to report it
            data = data[written:]
        return data

    def _is_writable(self) -> bool:
        return any(mask & select.POLLOUT for _, mask in self._poll.poll(0))


@attrs.frozen
class _Output:
    """What structlog writes to: it calls the method named after the level."""

    sink: LineSink
    component: str

    def write_line(self, line: str) -> None:
        self.sink.write_line(line)

    debug = info = warning = error = critical = write_line


def _add_component(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """As a processor: name the part of the program that speaks."""
    if logger.component:
        event.setdefault("component", logger.component)
    return event


class _ToStructlog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            get_logger(record.name).log(record.levelno, text, exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


def drop_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """As a processor: leave out every key of SECRET_KEYS, in nested mappings too."""
    return _without_secrets(event)


def _without_secrets(values: Mapping[str, Any]) -> MutableMapping[str, Any]:
    return {
        key: _without_secrets(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if key not in SECRET_KEYS
    }


def escape_unprintable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """As a processor: no text of a peer's may move the cursor or begin a line of its own."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode("ascii")
    return event


@attrs.define
class _Storm:
    next_line_at: float
    suppressed: int = 0


class StormLimiter:
    """Lets one line per interval and kind through and counts the others.

    Pure: the caller brings the clock. Kinds are the caller's, a small set
    ("lagging", "refused"), not one per peer: each is remembered until a
    :meth:`flush` finds it quiet. ::

        suppressed = storms.admit("lagging", now)
        if suppressed is not None:
            log.warning("subscriber lags", room=room, suppressed=suppressed)
    """

    def __init__(self, interval_s: float = 1.0) -> None:
        self._interval_s = interval_s
        self._storms: dict[Hashable, _Storm] = {}

    def admit(self, kind: Hashable, now: float) -> int | None:
        """Return None to stay silent, else how many lines were suppressed before this one."""
        storm = self._storms.get(kind)
        if storm is None:
            self._storms[kind] = _Storm(now + self._interval_s)
            return 0
        if now < storm.next_line_at:
            storm.suppressed += 1
            return None
        suppressed = storm.suppressed
        storm.next_line_at, storm.suppressed = now + self._interval_s, 0
        return suppressed

    def flush(self, now: float) -> Iterator[tuple[Hashable, int]]:
        """Yield (kind, suppressed) of storms that ended with lines unreported; forget the quiet.

        Call it about once an interval; each pair deserves a line.
        """
        for kind, storm in tuple(self._storms.items()):
            if now < storm.next_line_at:
                continue
            if storm.suppressed:
                suppressed = storm.suppressed
                storm.next_line_at, storm.suppressed = now + self._interval_s, 0
                yield kind, suppressed
            else:
                del self._storms[kind]
