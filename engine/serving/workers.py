"""
One process of this engine for each node, each bound to its node with weights of its own; replaced when it ends.

While one is being replaced the others go on: half an engine serves, and a dead one does not. One that ends before it
was ever ready will not do better a second time, so then the whole start fails, with the sentence that it said.
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

from engine.serving.shutdown import LOOK, Patience

SHORTEST_PAUSE = 1.0  # seconds before one that ended is started again; doubles while it keeps ending
LONGEST_PAUSE = 60.0
STEADY = 60.0  # seconds of life after which the pause is short again
LAST_SECONDS = 5.0  # that one which was told to end may take beyond the drain: for LAST_WORDS, LAST_PASS and its exit

Say = Callable[[str], None]
Greet = Callable[["Worker"], None]


class Worker:
    """The process of one node, by whose number it is called; `port` is None while it does not serve."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.arguments = tuple(arguments)
        self.port: int | None = None
        self.ready: dict[str, Any] = {}
        self.running = 0
        self.taken = 0
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.last_words = ""


class Workers:
    """All of them, kept alive from `start` to `stop`."""

    def __init__(self, arguments: Mapping[str, Sequence[str]], say: Say) -> None:
        """`arguments` are the engine's own for each node, by its number, less where it listens."""
        self.all = [Worker(name, own) for name, own in arguments.items()]
        self._say = say
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._failed: Worker | None = None

    def start(self, greet: Greet) -> None:
        """
        Starts them at once, and returns when all serve; `greet` is called with each that is to serve, also later.

        Raises ValueError where one of them cannot start.
        """
        for worker in self.all:
            threading.Thread(target=self._keep, args=(worker, greet), daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._failed or all(worker.port for worker in self.all))
        if self._failed is not None:
            raise ValueError(f"the worker of node {self._failed.name}: {self._failed.last_words or 'ended at once'}")

    @contextlib.contextmanager
    def least_running(self, but: Collection[Worker]) -> Iterator[Worker | None]:
        """The worker that serves and has fewest requests, counted as having one more; None where there is none."""
        with self._changed:
            able = [worker for worker in self.all if worker.port is not None and worker not in but]
            worker = min(able, key=lambda one: (one.running, one.taken), default=None)
            if worker is not None:
                worker.running += 1
                worker.taken += 1
        try:
            yield worker
        finally:
            if worker is not None:
                with self._changed:
                    worker.running -= 1
                    self._changed.notify_all()

    def stop(self, patience: Patience) -> None:
        """Ends them; each finishes what it does first. A second signal to us hurries them too: `patience` tells."""
        self._stopping.set()
        living = [worker.process for worker in self.all if worker.process is not None]
        for process in living:
            process.terminate()
        _wait_for(living, patience)
        with self._changed:  # the last bytes of an answer are still on their way to the client
            self._changed.wait_for(lambda: not any(worker.running for worker in self.all), timeout=1.0)

    def _keep(self, worker: Worker, greet: Greet) -> None:
        pause = SHORTEST_PAUSE
        while not self._stopping.is_set():
            began, kills = time.monotonic(), _oom_kills()
            try:
                status = self._live_once(worker, greet)
            except (OSError, ValueError) as error:  # no process to be had, or its first line is not ours
                worker.last_words, status = str(error), None
            if self._stopping.is_set():
                return
            if not worker.ready:
                self._give_up(worker)
                return
            if time.monotonic() - began > STEADY:
                pause = SHORTEST_PAUSE
            how = _how(status, _oom_kills() > kills)
            self._say(
                f"the worker of node {worker.name} {how}: the others go on, and it is started again in {pause:g} s"
            )
            self._stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _give_up(self, worker: Worker) -> None:
        with self._changed:
            self._failed = self._failed or worker
            self._changed.notify_all()

    def _live_once(self, worker: Worker, greet: Greet) -> int:
        own = ("--host", "127.0.0.1", "--port", "0", "--until-stdin-closes")  # the last that is given counts
        command = [sys.executable, "-P", "-m", "engine", *worker.arguments, *own]
        pipe = subprocess.PIPE
        # In a session of its own: Ctrl-C on a terminal reaches us alone, and we end them in order. Should we be killed,
        # the kernel closes their standard input.
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True) as process:
            worker.process = process
            worker.starts += 1
            assert process.stdout is not None
            assert process.stderr is not None
            hearing = threading.Thread(target=self._hear, args=(worker, process.stderr), daemon=True)
            hearing.start()
            if self._stopping.is_set():
                process.terminate()  # `stop` may have looked before there was a process
            line = process.stdout.readline()
            if line:
                self._serve(worker, json.loads(line), greet)
            status = process.wait()
            with self._changed:
                worker.port = None
            hearing.join(1.0)
        return status

    def _serve(self, worker: Worker, ready: dict[str, Any], greet: Greet) -> None:
        worker.ready = ready
        worker_port = int(str(ready["url"]).rpartition(":")[2])
        with self._changed:
            worker.port = worker_port
        greet(worker)
        with self._changed:
            self._changed.notify_all()

    def _hear(self, worker: Worker, stream: IO[bytes]) -> None:
        for line in stream:
            worker.last_words = line.decode("utf-8", "replace").strip().removeprefix("engine: ")
            self._say(f"node {worker.name}: {worker.last_words}")


def _wait_for(living: Sequence[subprocess.Popen[bytes]], patience: Patience) -> None:
    """Until all have ended; SIGINT, which does not drain, once there is no patience left, and SIGKILL at the end."""
    began, draining = time.monotonic(), True
    while any(process.poll() is None for process in living):
        if draining and not patience.seconds:
            began, draining = time.monotonic(), False
            for process in living:
                process.send_signal(signal.SIGINT)
        if time.monotonic() - began > patience.seconds + LAST_SECONDS:
            for process in living:
                process.kill()
            return
        time.sleep(LOOK)


def _how(status: int | None, out_of_memory: bool) -> str:
    if status is None:
        return "could not be started"
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name if -status in signal.valid_signals() else "a signal"
    if -status == signal.SIGKILL and out_of_memory:
        return "was killed (signal 9) while the kernel killed for want of memory: a bound worker has its node's only"
    return f"was ended by {name} (signal {-status})"


def _oom_kills(root: str = "/") -> int:
    """How often the kernel has killed for want of memory; 0 where it does not tell (before 4.13)."""
    with contextlib.suppress(OSError):  # no /proc: nobody can tell
        match = re.search(r"^oom_kill (\d+)$", Path(root, "proc/vmstat").read_text(encoding="ascii"), re.MULTILINE)
        return int(match[1]) if match else 0
    return 0
