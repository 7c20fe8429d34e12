"""
The eye: a separate process for collectors that can block, so that the agent can kill and replace it.

`python -m agent.sampling.eye ROOT [CACHE]` reads one request a line from standard input, `{"collect": NAME, "own":
{…}}`, and writes one CollectResponse a line to standard output. Each collector has its own thread, so a stuck sensor
hides no others. The process ends when its input closes, so it cannot outlive the agent.

It has rights that the agent lacks, and takes no other order than a pass of a collector that is read in an eye. A
request that is none gets a sentence, and the eye stays for the others.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any, BinaryIO

import msgspec

from agent.runtime.errors import describe_fault
from agent.sampling import plugins
from agent.sampling.eye_protocol import (
    MAX_REQUEST_BYTES,
    READY,
    CollectRequest,
    ProtocolError,
    check_size,
    decode_request,
    encode_result,
)
from agent.sampling.passes import CollectionResult, ThreadRunner
from collectors import Host


class Eye:
    """The collectors of this process, with a thread for each."""

    def __init__(self, root: str, cache_dir: str | None = None) -> None:
        self._root = root
        self._cache_dir = cache_dir
        self._modules = plugins.load_collectors()
        self._runners: dict[str, ThreadRunner] = {}
        self._collectors: dict[str, tuple[Any, plugins.Collector]] = {}
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        # Responses get their own descriptor, so that text a library prints to stdout cannot mix with them.
        self._output = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def handle_line(self, line: bytes) -> None:
        """Starts the requested pass; its response, or the reason why there is none, is written later."""
        try:
            request = decode_request(line)
        except ProtocolError as error:
            return self._refuse("", str(error))
        try:
            collector = self._find_collector(request)
        except ProtocolError as error:
            return self._refuse(request.collect, str(error))
        except Exception as failure:  # a collector that cannot be loaded must not end the eye of the others
            return self._refuse(request.collect, describe_fault(failure))
        runner = self._runners.get(request.collect)
        if runner is None:
            runner = self._runners[request.collect] = ThreadRunner(
                request.collect, Host(self._root, self._cache_dir), self._send_result
            )
        if runner.busy_since is None:
            runner.start(collector, time.monotonic())
        return None

    def _refuse(self, name: str, reason: str) -> None:
        self._send_result(CollectionResult(name, time.monotonic(), 0.0, 0.0, (), (), reason))

    def _find_collector(self, request: CollectRequest) -> plugins.Collector:
        """Returns the collector, bound to the configuration of the request; raises whatever is wrong with either."""
        cached = self._collectors.get(request.collect)
        if cached is None or cached[0] != request.own:
            module = self._find_module(request.collect)
            config_type = plugins.find_config_types(self._modules)[request.collect]
            if request.own is not None and config_type is None:
                raise ProtocolError(f"the collector {request.collect} has no settings")
            collector_config = (
                msgspec.convert(request.own, config_type)
                if config_type is not None and request.own is not None
                else None
            )
            cached = (
                request.own,
                plugins.bind_collector(module, request.collect, interval=None, deadline=None, config=collector_config),
            )
            self._collectors[request.collect] = cached
        return cached[1]

    def _find_module(self, name: str) -> ModuleType:
        if name not in self._modules:  # a third party's, which is enabled since it was requested
            self._modules |= plugins.load_collectors({name})
        module = self._modules.get(name)
        if module is None:
            raise ProtocolError(f"there is no collector {name!a}")
        if not (getattr(module, "ISOLATED", False) or getattr(module, "PRIVILEGED", False)):
            raise ProtocolError(f"the collector {name} is read by the agent itself, and by no eye")
        return module

    def send_ready(self) -> None:
        """Tells the agent that the eye has started, which takes long on a host in trouble."""
        self._write(self._encoder.encode(READY))

    def _send_result(self, result: CollectionResult) -> None:
        try:
            line = self._encoder.encode(encode_result(result))
            check_size(line)
        except (UnicodeError, ValueError, ProtocolError) as error:  # it costs this pass, not the runner
            reason = f"the result cannot be sent: {error}"
            line = self._encoder.encode(encode_result(result._replace(samples=(), notes=(), error=reason)))
        self._write(line)

    def _write(self, line: bytes) -> None:
        with self._lock:
            self._output.write(line + b"\n")
            self._output.flush()


def read_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yields the lines; of one that is longer than a request may be, the beginning, which is refused as too long."""
    is_rest = False
    while line := stream.readline(MAX_REQUEST_BYTES + 2):
        if not is_rest:
            yield line
        is_rest = not line.endswith(b"\n")


def main() -> None:
    """Handles requests until the agent closes the pipe."""
    eye = Eye(*sys.argv[1:3])
    gc.freeze()  # imported modules stay, so the garbage collector need not walk them
    gc.set_threshold(50_000, 20, 50)
    eye.send_ready()
    for line in read_lines(sys.stdin.buffer):
        eye.handle_line(line)


if __name__ == "__main__":
    main()
