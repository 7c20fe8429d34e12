"""A child is replaced after any failure to start it or to read from it. See tests/agent/sampling/test_eye.py."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from agent.runtime.child_process import ChildProcess
from tests.waiting import wait_until


def do_nothing() -> None:
    """Ignores the end of a child."""


def test_a_child_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that cannot be started now is started later."""
    monkeypatch.setattr("agent.runtime.child_process.MIN_PAUSE", 0.02)
    (tmp_path / "quiet.py").write_text("import sys\nsys.stdin.read()\n")

    async def scenario() -> None:
        child = ChildProcess(
            "quiet",
            ("quiet",),
            on_line=len,
            on_end=do_nothing,
            environment={"PYTHONPATH": str(tmp_path)},
        )
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", str(tmp_path / "gone"))
            child.start()
            await asyncio.sleep(0.2)
        try:
            assert await child.wait_until_alive(5.0)
        finally:
            await child.close()

    asyncio.run(scenario())


def test_a_line_that_nobody_understands_does_not_lose_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where handling a line raises, the child is killed rather than left without a reader, and another one starts."""
    monkeypatch.setattr("agent.runtime.child_process.MIN_PAUSE", 0.02)
    (tmp_path / "talker.py").write_text("import sys\nprint('hello', flush=True)\nsys.stdin.read()\n")

    def refuse(line: bytes) -> None:
        raise ValueError("not understood")

    async def scenario() -> None:
        child = ChildProcess(
            "talker",
            ("talker",),
            on_line=refuse,
            on_end=do_nothing,
            environment={"PYTHONPATH": str(tmp_path)},
        )
        child.start()
        try:
            await wait_until(lambda: child.start_count >= 2)
        finally:
            await child.close()

    asyncio.run(scenario())
