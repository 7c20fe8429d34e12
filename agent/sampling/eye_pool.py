"""
The agent's end of the eyes: sends requests, delivers results, and replaces eyes whose reads do not return.

All isolated collectors share one eye, with a thread for each. A collector whose read does not return moves to its own
eye, which can be killed and replaced without harm to the others. Its stuck thread stays behind in the shared eye.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from agent.runtime.child_process import ChildProcess
from agent.sampling.eye_protocol import (
    READY,
    CollectRequest,
    CollectResponse,
    ProtocolError,
    decode_response,
    decode_result,
    find_collector_name,
)
from agent.sampling.eye_socket import EyeConnection
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import Collector

STUCK_AFTER = 10.0  # seconds, or ten deadlines if that is longer, after which a read counts as stuck
# Seconds after which an eye that has not started counts as stuck. It imports some hundred files, from a cold disk on a
# host in trouble; an eye that was killed for its start-up was killed for ever.
START_TIMEOUT = 120.0
MAX_FAULTS = 100  # lines that nobody can use or has requested, after which an eye is replaced


class EyeProcess(Protocol):
    """An eye: a child process of ours, or a connection to one that systemd has started."""

    @property
    def pid(self) -> int | None: ...

    @property
    def generation(self) -> int | None: ...

    @property
    def is_started(self) -> bool: ...

    def start(self) -> None: ...

    async def wait_until_alive(self, timeout: float) -> bool: ...

    def send(self, line: bytes) -> bool: ...

    def kill(self) -> None: ...

    async def close(self) -> None: ...


class EyePool:
    """All eyes of this agent, and the runners of the collectors in them."""

    def __init__(
        self,
        root: str,
        deliver: Callable[[CollectionResult], None],
        cache_dir: str | None = None,
        socket_path: str | None = None,
    ) -> None:
        """
        Makes the shared eye, without starting it.

        `cache_dir` holds the files that collectors reuse in the next process. At `socket_path` systemd starts an eye
        for each connection; without a path the eyes are child processes.
        """
        self.socket_path = socket_path
        self._arguments = ("agent.sampling.eye", root) if cache_dir is None else ("agent.sampling.eye", root, cache_dir)
        self._deliver = deliver
        self._runners: dict[str, EyeRunner] = {}
        self._log = structlog.get_logger()
        self._ready: set[EyeProcess] = set()
        self._fault_counts: Counter[EyeProcess] = Counter()
        self._is_started = False
        self.shared_eye = self._make_eye("eye")
        self._separate_eyes: list[EyeProcess] = []

    def _make_eye(self, name: str) -> EyeProcess:
        def on_line(line: bytes) -> None:
            self._handle_response(eye, line)

        def on_end() -> None:
            self._handle_end(eye)

        eye: EyeProcess
        if self.socket_path is not None:
            eye = EyeConnection(name, self.socket_path, on_line=on_line, on_end=on_end)
        else:
            eye = ChildProcess(name, self._arguments, on_line=on_line, on_end=on_end)
        return eye

    def get_runner(self, name: str) -> EyeRunner:
        """Returns the runner of one collector; the first call starts the shared eye."""
        if name not in self._runners:
            self._runners[name] = EyeRunner(self, self.shared_eye)
            self._start_shared()
        return self._runners[name]

    async def start(self) -> None:
        """Starts the shared eye if any collector needs it, and waits for it: else the first passes would fail."""
        self._is_started = True
        if self._runners:
            self._start_shared()
            await self.shared_eye.wait_until_alive(5.0)

    def _start_shared(self) -> None:
        if self._is_started and not self.shared_eye.is_started:
            self.shared_eye.start()

    def send_request(self, runner: EyeRunner, collector: Collector) -> None:
        """Requests one pass; the pass fails at once while no eye is running."""
        collector_config = None if collector.config is None else msgspec.to_builtins(collector.config)
        line = msgspec.json.encode(CollectRequest(collector.name, collector_config)) + b"\n"
        if not runner.eye.send(line):
            self._deliver_failure(collector.name, runner, "the eye is not running")

    def restart_stuck(self, now: float) -> None:
        """
        Moves collectors with a stuck read to their own eye, and kills that eye if it is stuck too.

        A read counts from the moment at which its eye is ready. An eye that does not become ready is killed; in an eye
        of its own a collector would wait for the same start again.
        """
        for name, runner in self._runners.items():
            if runner.busy_since is None:
                continue
            if runner.waits_for_start and runner.eye in self._ready:
                runner.waits_for_start, runner.reading_since = False, now
            if runner.waits_for_start and now - runner.reading_since > START_TIMEOUT:
                self._kill_eye(runner, f"the eye has not started within {START_TIMEOUT:g} s; it is replaced", name)
            elif not runner.waits_for_start and now - runner.reading_since > max(STUCK_AFTER, 10 * runner.deadline):
                self._restart_eye(name, runner)

    def _restart_eye(self, name: str, runner: EyeRunner) -> None:
        if runner.eye is not self.shared_eye:
            self._kill_eye(runner, "a read does not return; its eye is replaced", name)
            return
        self._log.warning("a read does not return; the collector moves to its own eye", collector=name)
        runner.eye = self._make_eye(f"eye of {name}")
        runner.eye.start()
        self._separate_eyes.append(runner.eye)
        self._deliver_failure(name, runner, "the read did not return")

    def _kill_eye(self, runner: EyeRunner, event: str, name: str) -> None:
        """Kills an eye once: one in uninterruptible sleep stays until the kernel releases it."""
        if runner.killed_id != runner.eye.generation:
            self._log.warning(event, collector=name)
            runner.killed_id = runner.eye.generation
            runner.eye.kill()

    def _handle_response(self, eye: EyeProcess, line: bytes) -> None:
        """Delivers the result that a line holds; raises ProtocolError, which ends the eye, after MAX_FAULTS others."""
        try:
            response = decode_response(line)
            if response == READY:
                self._ready.add(eye)
                return
            self._deliver_response(eye, response)
        except ProtocolError as error:
            text = line[:200].decode("utf-8", "replace")
            self._log.warning("the eye sent an invalid response", line=text, reason=str(error))
            if (runner := self._find_waiting(eye, name := find_collector_name(line))) is not None:
                self._deliver_failure(name, runner, f"the eye's response is refused: {error}")
            self._count_fault(eye)

    def _deliver_response(self, eye: EyeProcess, response: CollectResponse) -> None:
        runner = self._find_waiting(eye, response.collector)
        if runner is None or runner.collector is None or runner.busy_since is None:
            if not response.collector:
                raise ProtocolError(response.error or "it names no collector")
            self._count_fault(eye)  # a response that arrives after its runner has given up, or that nobody requested
            return
        result = decode_result(response, runner.collector, runner.busy_since)
        self._ready.add(eye)  # an older eye does not say that it has started
        runner.busy_since = None
        self._deliver(result)

    def _find_waiting(self, eye: EyeProcess, name: str) -> EyeRunner | None:
        """Returns the runner that waits for a response of this eye about this collector."""
        runner = self._runners.get(name)
        return runner if runner is not None and runner.eye is eye and runner.busy_since is not None else None

    def _count_fault(self, eye: EyeProcess) -> None:
        self._fault_counts[eye] += 1
        if self._fault_counts[eye] >= MAX_FAULTS:
            raise ProtocolError(f"the eye sent {MAX_FAULTS} lines that nobody requested or can use")

    def _handle_end(self, eye: EyeProcess) -> None:
        self._ready.discard(eye)
        self._fault_counts.pop(eye, None)
        for name, runner in self._runners.items():
            if runner.eye is eye and runner.busy_since is not None:
                self._deliver_failure(name, runner, "the eye ended while it was reading")

    def is_ready(self, eye: EyeProcess) -> bool:
        """True once the eye has started and can read."""
        return eye in self._ready

    def _deliver_failure(self, name: str, runner: EyeRunner, reason: str) -> None:
        began, runner.busy_since = runner.busy_since, None
        if began is not None:
            self._deliver(CollectionResult(name, began, 0.0, 0.0, (), (), reason))

    async def close(self) -> None:
        """Ends all eyes."""
        await asyncio.gather(*(child.close() for child in (self.shared_eye, *self._separate_eyes)))


class EyeRunner:
    """Runs the passes of one collector in an eye."""

    def __init__(self, pool: EyePool, eye: EyeProcess) -> None:
        self.busy_since: float | None = None
        self.reading_since = 0.0
        """When the pass was requested, or when its eye was ready, whichever is later."""
        self.waits_for_start = False
        """True while the eye of the pass under way was not ready yet."""
        self.deadline = 0.0
        self.collector: Collector | None = None
        self.eye = eye
        self.killed_id: int | None = None
        self._pool = pool

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = self.reading_since = began
        self.waits_for_start = not self._pool.is_ready(self.eye)
        self.collector, self.deadline = collector, collector.deadline
        self._pool.send_request(self, collector)
