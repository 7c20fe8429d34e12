"""
Starts every long-lived child, and replaces it when it ends.

Only our own interpreter is ever started, never a shell. A child is in a session of its own, so that Ctrl-C on a
terminal reaches the agent alone, which then ends its children in order; and it ends by itself when its standard input
closes, so that it cannot outlive the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

SHORTEST_PAUSE = 1.0  # seconds before a child that ended is started again
LONGEST_PAUSE = 300.0  # seconds: the pause doubles up to here while the child keeps ending
STABLE_AFTER = 60.0  # seconds of life after which a child counts as well again
LONGEST_LINE = 16 << 20  # bytes


class ChildProcess:
    """One process of ours: a module that speaks one line at a time on standard output."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        on_line: Callable[[bytes], None],
        on_end: Callable[[], None],
        environment: Mapping[str, str] | None = None,
        grace_period: float = 1.0,
    ) -> None:
        """`patience`: seconds that it may take to end by itself at `close`."""
        self.name = name
        self._grace_period = grace_period
        self._arguments = tuple(arguments)
        self._on_line = on_line
        self._on_end = on_end
        self._environment = dict(environment or {})
        self._log = structlog.get_logger().bind(child=name)
        self._process: asyncio.subprocess.Process | None = None
        self._closing = asyncio.Event()
        self._alive = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.start_count = 0
        self.last_error_line = ""

    @property
    def pid(self) -> int | None:
        """The process id while it lives."""
        return None if self._process is None else self._process.pid

    @property
    def generation(self) -> int | None:
        """Which process it is, told apart from the one before; None while there is none."""
        return self.pid

    @property
    def is_started(self) -> bool:
        """Whether it is being kept alive."""
        return self._task is not None

    def start(self) -> None:
        """Starts the child and keeps it alive until `close`."""
        self._task = asyncio.get_running_loop().create_task(
            keep_alive(self._run_once, self._closing, self._log), name=f"child {self.name}"
        )

    async def _run_once(self) -> None:
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # else an `engine` or `agent` in the folder that we were started in would be run instead of ours
            "-m",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment},
        )
        self.start_count += 1
        self._alive.set()
        self._log.debug("child started", pid=process.pid)
        try:
            await self._read_or_kill(process)
            # A child in uninterruptible sleep is not reaped by SIGKILL: this waits, so it is not replaced either.
            code = await process.wait()
        finally:
            self._process = None
            self._alive.clear()
            self._on_end()
        if not self._closing.is_set():
            self._log.warning("child ended and will be started again", exit_status=code)

    async def _read_or_kill(self, process: asyncio.subprocess.Process) -> None:
        try:
            await self._read(process)
        except Exception:  # nobody reads it any more: it would block at its next line, and belong to nobody
            with contextlib.suppress(ProcessLookupError):  # it ended on its own meanwhile
                process.kill()
            await process.wait()
            raise

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._dispatch_lines(process.stdout, self._on_line))
            tasks.create_task(self._dispatch_lines(process.stderr, self._log_line))

    async def _dispatch_lines(self, stream: asyncio.StreamReader, on_line: Callable[[bytes], None]) -> None:
        while line := await read_line(stream):
            on_line(line)

    def _log_line(self, line: bytes) -> None:
        # Through the log and not straight to the terminal, where it would tear the live table.
        self.last_error_line = line.decode("utf-8", "replace").strip()
        self._log.info(self.last_error_line)

    async def wait_until_alive(self, timeout: float) -> bool:
        """Waits until there is a process; False where there is none after so many seconds."""
        with contextlib.suppress(TimeoutError):  # the answer says that it took too long
            await asyncio.wait_for(self._alive.wait(), timeout)
        return self._alive.is_set()

    def send(self, line: bytes) -> bool:
        """Writes a line to the child; False where there is no child to read it."""
        process = self._process
        if process is None or process.stdin is None or process.stdin.is_closing():
            return False
        process.stdin.write(line)
        return True

    def kill(self) -> None:
        """Ends the child now; it is replaced once the kernel has reaped it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended on its own meanwhile
                self._process.kill()

    async def close(self) -> None:
        """Ends the child for good; one in uninterruptible sleep is left to the kernel."""
        self._closing.set()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._task is None:
            return
        for _ in range(2):
            done, _pending = await asyncio.wait({self._task}, timeout=self._grace_period)
            if done:
                return
            self.kill()
        self._task.cancel()


async def keep_alive(
    run_once: Callable[[], Awaitable[None]], closing: asyncio.Event, log: structlog.typing.FilteringBoundLogger
) -> None:
    """Lives again and again until it closes, after a pause that doubles while lives are short."""
    pause = SHORTEST_PAUSE
    while not closing.is_set():
        started = asyncio.get_running_loop().time()
        try:
            await run_once()
        except Exception as failure:  # no process to be had just now, or it said what nobody understands
            log.warning("child failed and will be started again", reason=_describe_failure(failure))
        if closing.is_set():
            return
        lifetime = asyncio.get_running_loop().time() - started
        pause = SHORTEST_PAUSE if lifetime > STABLE_AFTER else min(pause * 2, LONGEST_PAUSE)
        with contextlib.suppress(TimeoutError):  # the pause is over: start again
            await asyncio.wait_for(closing.wait(), pause)


async def read_line(stream: asyncio.StreamReader) -> bytes:
    """The next line, b"" at the end; one that is too long to be ours is passed over."""
    while True:
        try:
            return await stream.readline()
        except ValueError:
            continue  # readline has dropped what it could not hold


def _describe_failure(failure: Exception) -> str:
    failures = failure.exceptions if isinstance(failure, ExceptionGroup) else (failure,)
    return "; ".join(f"{type(error).__name__}: {error}" for error in failures)
