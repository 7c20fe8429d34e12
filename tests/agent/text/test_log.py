"""Log lines: for people, for machines, for the journal."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from agent.text import log


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def test_without_a_terminal_a_line_is_json() -> None:
    """Each line is one JSON object with time, level, event and fields."""
    stream = io.StringIO()
    log.configure(stream)
    structlog.get_logger().warning("collector failed", collector="hwmon", count=3)
    line = json.loads(stream.getvalue())

    assert line["event"] == "collector failed"
    assert line["level"] == "warning"
    assert line["collector"] == "hwmon"
    assert line["timestamp"].endswith("Z")


def test_other_libraries_speak_the_same_way() -> None:
    """Errors that aiohttp or APScheduler log are JSON too; their informational lines are dropped."""
    stream = io.StringIO()
    log.configure(stream)
    logging.getLogger("aiohttp.server").error("Error handling request")
    logging.getLogger("apscheduler.executors").info("Running job")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["Error handling request"]


def test_an_exception_is_in_its_line() -> None:
    """A traceback is a field of the JSON, not further lines."""
    stream = io.StringIO()
    log.configure(stream)
    try:
        raise KeyError("x")
    except KeyError:
        structlog.get_logger().error("failed", exc_info=True)

    assert "KeyError: 'x'" in json.loads(stream.getvalue())["exception"]


def test_on_a_terminal_a_line_is_for_people() -> None:
    """A terminal gets words with a time of day, and no JSON."""
    primary, secondary = pty.openpty()
    with os.fdopen(secondary, "w") as terminal:
        log.configure(terminal)
        structlog.get_logger().info("listening", url="http://x/")
        terminal.flush()
        output = os.read(primary, 4096).decode()
    os.close(primary)

    assert "listening" in output
    assert "http://x/" in output
    assert not output.startswith("{")


@pytest.mark.parametrize(("level", "priority"), [("info", 6), ("warning", 4), ("error", 3)])
def test_the_journal_gets_priorities(
    level: str, priority: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where systemd connected the stream to its journal, each line begins with its priority."""
    with (tmp_path / "journal").open("w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        log.configure(stream)
        getattr(structlog.get_logger(), level)("x")
    line = (tmp_path / "journal").read_text()

    assert line.startswith(f"<{priority}>{{")
