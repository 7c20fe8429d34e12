"""
One engine process per node, bound to its node and with its own weights; replaced when it ends.

While one worker is being replaced, the others continue to serve. If a worker ends before it was ever ready, a second
try would fail the same way: then the whole start fails, with the worker's last line.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from engine.serving.shutdown import CHECK_INTERVAL, GracePeriod

MIN_RESTART_DELAY = 1.0  # seconds before a restart; doubles with each further exit
MAX_RESTART_DELAY = 60.0
STEADY_SECONDS = 60.0  # seconds of running after which the delay is short again
EXIT_TIMEOUT = 5.0  # seconds beyond the drain: for RESPONSE_TIMEOUT, LAST_PASS_TIMEOUT and the exit

Log = Callable[[str], None]
OnReady = Callable[["Worker"], None]


class Worker:
    """The process of one node, named by the node's number; `port` is None while it does not serve."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.arguments = tuple(arguments)
        self.port: int | None = None
        self.ready_fields: dict[str, Any] = {}
        self.running_count = 0
        self.assigned_count = 0
        self.start_count = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.last_line = ""


class Workers:
    """All workers; restarts them from `start` to `stop`."""

    def __init__(self, arguments: Mapping[str, Sequence[str]], log: Log) -> None:
        """`arguments` are the engine arguments by node number, without the address."""
        self.all = [Worker(name, worker_arguments) for name, worker_arguments in arguments.items()]
        self._log = log
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._failed: Worker | None = None

    def start(self, on_ready: OnReady) -> None:
        """
        Starts all workers and returns once all serve; calls `on_ready` for each worker that becomes ready, also later.

        Raises ValueError if a worker cannot start.
        """
        for worker in self.all:
            threading.Thread(target=self._supervise, args=(worker, on_ready), daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._failed or all(worker.port for worker in self.all))
        if self._failed is not None:
            raise ValueError(f"the worker of node {self._failed.name}: {self._failed.last_line or 'ended at once'}")

    @contextlib.contextmanager
    def borrow_least_busy(self, excluded: Collection[Worker]) -> Iterator[Worker | None]:
        """Yields the serving worker with the fewest requests, and counts one more for it; None if no worker serves."""
        with self._changed:
            candidates = [worker for worker in self.all if worker.port is not None and worker not in excluded]
            worker = min(
                candidates, key=lambda candidate: (candidate.running_count, candidate.assigned_count), default=None
            )
            if worker is not None:
                worker.running_count += 1
                worker.assigned_count += 1
        try:
            yield worker
        finally:
            if worker is not None:
                with self._changed:
                    worker.running_count -= 1
                    self._changed.notify_all()

    def stop(self, grace: GracePeriod) -> None:
        """Ends the workers after their running requests; a second signal to this process ends the grace of all."""
        self._stopping.set()
        processes = [worker.process for worker in self.all if worker.process is not None]
        for process in processes:
            process.terminate()
        _wait_for_exit(processes, grace)
        with self._changed:  # the last bytes of a response are still on their way to the client
            self._changed.wait_for(lambda: not any(worker.running_count for worker in self.all), timeout=1.0)

    def _supervise(self, worker: Worker, on_ready: OnReady) -> None:
        delay = MIN_RESTART_DELAY
        while not self._stopping.is_set():
            started, kills_before = time.monotonic(), _count_oom_kills()
            try:
                status = self._run_once(worker, on_ready)
            except (
                OSError,
                ValueError,
            ) as error:  # no process could be started, or its first line is not the ready line
                worker.last_line, status = str(error), None
            if self._stopping.is_set():
                return
            if not worker.ready_fields:
                self._fail_start(worker)
                return
            if time.monotonic() - started > STEADY_SECONDS:
                delay = MIN_RESTART_DELAY
            reason = _describe_exit(status, _count_oom_kills() > kills_before)
            self._log(f"the worker of node {worker.name} {reason}: the others continue, and it restarts in {delay:g} s")
            self._stopping.wait(delay)
            delay = min(delay * 2, MAX_RESTART_DELAY)

    def _fail_start(self, worker: Worker) -> None:
        with self._changed:
            self._failed = self._failed or worker
            self._changed.notify_all()

    def _run_once(self, worker: Worker, on_ready: OnReady) -> int:
        # The last value of an option counts.
        listen_arguments = ("--host", "127.0.0.1", "--port", "0", "--until-stdin-closes")
        command = [sys.executable, "-P", "-m", "engine", *worker.arguments, *listen_arguments]
        pipe = subprocess.PIPE
        # A new session: Ctrl-C on a terminal reaches only this process, which ends the workers in order. If this
        # process is killed, the kernel closes their standard input.
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True) as process:
            worker.process = process
            worker.start_count += 1
            assert process.stdout is not None
            assert process.stderr is not None
            stderr_reader = threading.Thread(target=self._read_stderr, args=(worker, process.stderr), daemon=True)
            stderr_reader.start()
            if self._stopping.is_set():
                process.terminate()  # `stop` may have run before there was a process
            line = process.stdout.readline()
            if line:
                self._mark_ready(worker, json.loads(line), on_ready)
            status = process.wait()
            with self._changed:
                worker.port = None
            stderr_reader.join(1.0)
        return status

    def _mark_ready(self, worker: Worker, ready_fields: dict[str, Any], on_ready: OnReady) -> None:
        worker.ready_fields = ready_fields
        worker_port = int(str(ready_fields["url"]).rpartition(":")[2])
        with self._changed:
            worker.port = worker_port
        on_ready(worker)
        with self._changed:
            self._changed.notify_all()

    def _read_stderr(self, worker: Worker, stream: IO[bytes]) -> None:
        for line in stream:
            worker.last_line = line.decode("utf-8", "replace").strip().removeprefix("engine: ")
            self._log(f"node {worker.name}: {worker.last_line}")


def _wait_for_exit(processes: Sequence[subprocess.Popen[bytes]], grace: GracePeriod) -> None:
    """Waits until all have ended; sends SIGINT, which does not drain, once the grace is 0, and SIGKILL at last."""
    started, draining = time.monotonic(), True
    while any(process.poll() is None for process in processes):
        if draining and not grace.seconds:
            started, draining = time.monotonic(), False
            for process in processes:
                process.send_signal(signal.SIGINT)
        if time.monotonic() - started > grace.seconds + EXIT_TIMEOUT:
            for process in processes:
                process.kill()
            return
        time.sleep(CHECK_INTERVAL)


def _describe_exit(status: int | None, out_of_memory: bool) -> str:
    if status is None:
        return "could not be started"
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name if -status in signal.valid_signals() else "a signal"
    if -status == signal.SIGKILL and out_of_memory:
        return "was killed (signal 9), and the OOM killer ran: a bound worker has only the memory of its node"
    return f"was ended by {name} (signal {-status})"


def _count_oom_kills(root: str = "/") -> int:
    """Returns the number of OOM kills since boot; 0 if the kernel does not report it (before 4.13)."""
    with contextlib.suppress(OSError):  # no /proc
        match = re.search(r"^oom_kill (\d+)$", Path(root, "proc/vmstat").read_text(encoding="ascii"), re.MULTILINE)
        return int(match[1]) if match else 0
    return 0
