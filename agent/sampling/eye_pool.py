"""
The agent's end of the eyes: sends requests, delivers results, and replaces eyes whose reads do not return.

All isolated collectors share one eye, with a thread for each. A collector whose read does not return moves to its own
eye, which can be killed and replaced without harm to the others. Its stuck thread stays behind in the shared eye.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from agent.runtime.child_process import ChildProcess
from agent.sampling.eye import CollectRequest, CollectResponse, decode_result
from agent.sampling.eye_socket import EyeConnection
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import Collector

STUCK_AFTER = 10.0  # seconds, or ten deadlines if that is longer, after which a read counts as stuck


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
        self._decoder = msgspec.json.Decoder(CollectResponse)
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
        """Moves collectors with a stuck read to their own eye, and kills that eye if it is stuck too."""
        for name, runner in self._runners.items():
            if runner.busy_since is not None and now - runner.busy_since > max(STUCK_AFTER, 10 * runner.deadline):
                self._restart_eye(name, runner)

    def _restart_eye(self, name: str, runner: EyeRunner) -> None:
        if runner.eye is not self.shared_eye:
            # Killed once only: an eye in uninterruptible sleep stays until the kernel releases it.
            if runner.killed_id != runner.eye.generation:
                self._log.warning("a read does not return; its eye is replaced", collector=name)
                runner.killed_id = runner.eye.generation
                runner.eye.kill()
            return
        self._log.warning("a read does not return; the collector moves to its own eye", collector=name)
        runner.eye = self._make_eye(f"eye of {name}")
        runner.eye.start()
        self._separate_eyes.append(runner.eye)
        self._deliver_failure(name, runner, "the read did not return")

    def _handle_response(self, eye: EyeProcess, line: bytes) -> None:
        try:
            response = self._decoder.decode(line)
        except msgspec.MsgspecError as error:
            self._log.warning(
                "the eye sent an invalid response", line=line[:200].decode("utf-8", "replace"), reason=str(error)
            )
            return
        runner = self._runners.get(response.collector)
        if runner is None or runner.eye is not eye or runner.busy_since is None:
            return  # a response that arrives after its runner has given up
        began, runner.busy_since = runner.busy_since, None
        self._deliver(decode_result(response, began))

    def _handle_end(self, eye: EyeProcess) -> None:
        for name, runner in self._runners.items():
            if runner.eye is eye and runner.busy_since is not None:
                self._deliver_failure(name, runner, "the eye ended while it was reading")

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
        self.deadline = 0.0
        self.eye = eye
        self.killed_id: int | None = None
        self._pool = pool

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began
        self.deadline = collector.deadline
        self._pool.send_request(self, collector)
