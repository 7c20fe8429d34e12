"""
Log lines: plain on a terminal, JSON elsewhere, with priorities for systemd's journal.

https://www.freedesktop.org/software/systemd/man/latest/sd-daemon.html for the `<N>` prefix.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from agent.text.printable import escape_lines

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def is_journal(stream: TextIO) -> bool:
    """Returns True if systemd connected the stream to its journal."""
    journal_stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def configure(stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Configures structlog and logging; called once, by the command line."""
    stream = stream or sys.stderr
    renderer = _build_console_renderer() if stream.isatty() else _build_json_renderer(journal=is_journal(stream))
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if not stream.isatty() else "%H:%M:%S", utc=not stream.isatty()),
    ]
    # JSON escapes by itself; the console renderer formats exceptions itself.
    shared.append(_escape_event if stream.isatty() else structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _LineLogger(stream),
        cache_logger_on_first_use=False,
    )
    _configure_stdlib(stream, shared, renderer, level)


class _LineLogger:
    """Writes log lines; drops a line that cannot be written (full disk, closed terminal)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # see above; there is nowhere else to log it
            print(message, file=self._stream, flush=True)

    debug = info = warning = error = critical = exception = msg


def _configure_stdlib(stream: TextIO, shared: list[Processor], renderer: Processor, level: int) -> None:
    handler = logging.StreamHandler(stream)
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[strip, renderer])
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    # APScheduler writes two INFO lines for each run of each job.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _escape_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escapes foreign text (labels of alerts, answers of engines), which must not control the terminal."""
    return {key: escape_lines(value) if isinstance(value, str) else value for key, value in event.items()}


def _build_console_renderer() -> Processor:
    # plain_traceback: the rich one takes seconds, and prints local variables with secrets in them.
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def _build_json_renderer(*, journal: bool) -> Processor:
    encode = msgspec.json.Encoder(enc_hook=repr).encode

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        line = encode(event).decode()
        return f"<{PRIORITIES.get(str(event.get('level')), 6)}>{line}" if journal else line

    return render
