"""
Starts every long-lived child process, and replaces a child that ends.

A child runs the agent's own Python interpreter, never a shell. It has a session of its own: Ctrl-C on a terminal
reaches only the agent, which then ends its children in order. A child ends by itself when its standard input closes,
so it cannot outlive the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from agent.runtime.errors import describe_fault

MIN_PAUSE = 1.0  # seconds before a child that ended is started again
MAX_PAUSE = 300.0  # seconds; the pause doubles up to this while a child keeps ending
STABLE_AFTER = 60.0  # seconds that a child must live until the pause is the shortest again
MAX_LINE = 16 << 20  # bytes of one line of a child


class ChildProcess:
    """One child process: a Python module that writes messages to standard output, one per line."""

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
        """`grace_period`: seconds that `close` waits for the child to end by itself."""
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
        """The process id; None while there is no process."""
        return None if self._process is None else self._process.pid

    @property
    def generation(self) -> int | None:
        """Identifies the current process, so that a replacement is noticed; None while there is none."""
        return self.pid

    @property
    def is_started(self) -> bool:
        """True once `start` was called."""
        return self._task is not None

    def start(self) -> None:
        """Starts the child and keeps it alive until `close`."""
        self._task = asyncio.get_running_loop().create_task(
            keep_alive(self._run_once, self._closing, self._log), name=f"child {self.name}"
        )

    async def _run_once(self) -> None:
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # without -P, an `engine` or `agent` in the current folder would run instead of the installed one
            "-m",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment},
        )
        self.start_count += 1
        self._alive.set()
        self._log.debug("child started", pid=process.pid)
        try:
            await self._read_or_kill(process)
            # SIGKILL does not end a child in uninterruptible sleep: this waits, so that no second child is started.
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
        except Exception:  # with no reader left, the child would block at its next line
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
        # Logged rather than printed: text on the terminal would tear the live table.
        self.last_error_line = line.decode("utf-8", "replace").strip()
        self._log.info(self.last_error_line)

    async def wait_until_alive(self, timeout: float) -> bool:
        """Waits until there is a process; returns False after `timeout` seconds without one."""
        with contextlib.suppress(TimeoutError):  # the return value says so
            await asyncio.wait_for(self._alive.wait(), timeout)
        return self._alive.is_set()

    def send(self, line: bytes) -> bool:
        """Writes a line to the child; returns False where there is no child to read it."""
        process = self._process
        if process is None or process.stdin is None or process.stdin.is_closing():
            return False
        process.stdin.write(line)
        return True

    def kill(self) -> None:
        """Kills the child; the next one starts once the kernel has reaped it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended on its own meanwhile
                self._process.kill()

    async def close(self) -> None:
        """Ends the child and starts no other; a child in uninterruptible sleep is left to the kernel."""
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
    """Calls `run_once` until `closing` is set, with a pause that doubles while the runs are short."""
    pause = MIN_PAUSE
    while not closing.is_set():
        started = asyncio.get_running_loop().time()
        try:
            await run_once()
        except Exception as failure:  # the process could not be started, or a line of it could not be parsed
            log.warning("child failed and will be started again", reason=_describe_failure(failure))
        if closing.is_set():
            return
        lifetime = asyncio.get_running_loop().time() - started
        pause = MIN_PAUSE if lifetime > STABLE_AFTER else min(pause * 2, MAX_PAUSE)
        with contextlib.suppress(TimeoutError):  # the pause is over: start again
            await asyncio.wait_for(closing.wait(), pause)


async def read_line(stream: asyncio.StreamReader) -> bytes:
    """Returns the next line, or b"" at the end; skips a line that is longer than the stream's limit."""
    while True:
        try:
            return await stream.readline()
        except ValueError:
            continue  # readline has dropped the part that it could not hold


def _describe_failure(failure: Exception) -> str:
    failures = failure.exceptions if isinstance(failure, ExceptionGroup) else (failure,)
    return "; ".join(map(describe_fault, failures))
