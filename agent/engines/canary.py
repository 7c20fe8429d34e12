"""
The canary: runs the bundled reference engine in short bursts, whose tokens per second show the host's health.

It must never harm the host. A burst is skipped while another engine works or may be working, and while processors are
short. It is also skipped while the canary's memory exceeds a twentieth of its node's available memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from agent.config.schema import CANARY, CanaryConfig
from agent.runtime.child_process import ChildProcess
from agent.runtime.errors import describe_error
from rules import promql
from rules.history.history import History

if TYPE_CHECKING:
    from agent.runtime.http_client import HttpClient

PROMPT = "The quick brown fox jumps over the lazy dog."  # constant, so that the work is constant
FIRST_TOKENS = 4  # of the first burst, whose speed is not known yet
MAX_TOKENS = 128
MAX_ANSWER_BYTES = 1 << 20
BURST_TIMEOUT = 30.0  # seconds for one burst and its answer
# Reasons to skip a burst with their conditions, checked in this order.
SKIP_CONDITIONS = {
    "another engine is working": f'sum(steadytok_engine_requests_running{{engine!="{CANARY}"}}) > 0',
    # An engine in a long prefill may not answer for seconds; an engine that hides its requests may always have some.
    "another engine does not answer, and may be working": f'steadytok_engine_up{{engine!="{CANARY}"}} == 0',
    "another engine does not report its requests": f"""
        steadytok_engine_up{{engine!="{CANARY}"}} == 1 unless on (engine) steadytok_engine_requests_running
    """,
    "processors are short": 'rate(steadytok_pressure_waiting_seconds_total{resource="cpu"}[15s]) > 0.05',
    # A kernel booted without psi=1 (RHEL's default) has no pressure metrics.
    "processors are busy": """
        sum(rate(steadytok_stat_cpu_seconds_total{mode!~"idle|iowait|guest|guest_nice"}[15s]))
          / sum(steadytok_stat_cpus_online) > 0.5
        unless on () sum(steadytok_pressure_waiting_seconds_total{resource="cpu"})
    """,
    "memory is short": f"""
        sum(steadytok_engine_resident_bytes{{engine="{CANARY}"}})
          > 0.05 * max(steadytok_node_meminfo_available_bytes)
    """,
}


class EngineReady(msgspec.Struct, frozen=True):
    """The line that the engine prints when it is ready."""

    url: str
    model: str = ""
    weights_bytes: int = 0


class Canary:
    """The engine's process and its bursts."""

    def __init__(self, settings: CanaryConfig, token_file: Path, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called each time that the engine prints the URL where it serves."""
        self._settings = settings
        self._skip_queries = {reason: promql.compile(text) for reason, text in SKIP_CONDITIONS.items()}
        self._tokens = FIRST_TOKENS
        self._client: HttpClient | None = None
        self._burst: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()
        self._on_ready = on_ready
        self.ready: EngineReady | None = None
        self.last_skip_reason: str | None = None
        arguments = ("engine", "--port", "0", *canary_arguments(settings.size), "--token-file", str(token_file))
        self.child = ChildProcess(
            "engine",
            (*arguments, "--until-stdin-closes"),
            on_line=self._on_line,
            on_end=self._on_end,
            environment=_SINGLE_THREADED,
        )

    def _on_line(self, line: bytes) -> None:
        try:
            self.ready = msgspec.json.decode(line, type=EngineReady)
        except msgspec.MsgspecError:
            self._log.info("engine output", line=line.decode("utf-8", "replace").strip())
            return
        self._on_ready()

    def _on_end(self) -> None:
        # The old URL stays: a dead canary is reported as down until the next one is ready.
        self._tokens = FIRST_TOKENS

    def skip_reason(self, history: History, now_ms: int) -> str | None:
        """Returns why a burst must be skipped now, or None."""
        results = ((reason, query.evaluate_at(history, now_ms)) for reason, query in self._skip_queries.items())
        return next((reason for reason, result in results if len(result)), None)

    def maybe_burst(self, history: History, now_ms: int) -> None:
        """Starts a burst, unless it would harm the host or the previous burst still runs."""
        if self.ready is None or (self._burst is not None and not self._burst.done()):
            return
        self.last_skip_reason = self.skip_reason(history, now_ms)
        if self.last_skip_reason is None:
            self._burst = asyncio.get_running_loop().create_task(self._generate(self.ready.url), name="canary burst")

    async def _generate(self, url: str) -> None:
        from agent.runtime.http_client import HttpClient, decode_json

        if self._client is None:
            self._client = HttpClient(limit=MAX_ANSWER_BYTES, timeout=BURST_TIMEOUT)
        request = {"prompt": PROMPT, "max_tokens": self._tokens, "temperature": 0}
        started = asyncio.get_running_loop().time()
        try:
            answer = await self._client.exchange("POST", f"{url}/v1/completions", json=request)
            tokens = decode_json(answer.body)["usage"]["completion_tokens"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._log.debug("canary burst failed", reason=describe_error(error))
            return
        elapsed = asyncio.get_running_loop().time() - started
        target_tokens = round(tokens / elapsed * self._settings.burst)
        self._tokens = min(max(target_tokens, 2), MAX_TOKENS)

    async def close(self) -> None:
        """Cancels the burst and stops the engine."""
        if self._burst is not None:
            self._burst.cancel()
        if self._client is not None:
            await self._client.close()
        await self.child.close()


def canary_arguments(size: str) -> tuple[str, ...]:
    """Returns the options of the canary's engine; equal options give an equal model, whose speeds can be compared."""
    memory_limit = ("--most", "0.05")  # of the free memory of its node
    one_burst = ("--slots", "1", "--drain", "0")  # one burst at a time; a stopping engine does not finish it
    return ("--size", size, *memory_limit, *one_burst)


# One core, whatever the environment says.
_SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
