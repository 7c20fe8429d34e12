"""
The canary: the bundled reference engine, run in short bursts so that its tokens per second tell the host's health.

It must never hurt: a burst is left out while another engine works or may be working, while processors are short, and
where its memory is more than a twentieth of what its node has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from agent.config.schema import CANARY
from agent.config.schema import CanaryConfig as Settings
from agent.runtime.child_process import ChildProcess
from rules import promql
from rules.history.history import History

PROMPT = "The quick brown fox jumps over the lazy dog."  # always the same: the same work, the same context
FIRST_TOKENS = 4  # in the first burst, before its speed is known
MAX_TOKENS = 128
# Why a burst is left out, and when; asked in this order.
SKIP_CONDITIONS = {
    "another engine is working": f'sum(steadytok_engine_requests_running{{engine!="{CANARY}"}}) > 0',
    # An engine in a long prefill may not answer for seconds; one that does not tell its requests may always have some.
    "another engine does not answer, and may be working": f'steadytok_engine_up{{engine!="{CANARY}"}} == 0',
    "another engine does not say whether it is working": f"""
        steadytok_engine_up{{engine!="{CANARY}"}} == 1 unless on (engine) steadytok_engine_requests_running
    """,
    "processors are short": 'rate(steadytok_pressure_waiting_seconds_total{resource="cpu"}[15s]) > 0.05',
    # Where the kernel was booted without psi=1 (the default of RHEL) there is no pressure to ask for.
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
    """The line that the engine prints once it serves."""

    url: str
    model: str = ""
    weights_bytes: int = 0


class Canary:
    """The engine's process, and its bursts."""

    def __init__(self, settings: Settings, token_file: Path, changed: asyncio.Event) -> None:
        self._settings = settings
        self._skip_queries = {reason: promql.compile(text) for reason, text in SKIP_CONDITIONS.items()}
        self._tokens = FIRST_TOKENS
        self._session: Any = None
        self._burst: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()
        self._changed = changed
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
            self._log.info("engine", line=line.decode("utf-8", "replace").strip())
            return
        self._changed.set()

    def _on_end(self) -> None:
        # The old URL stays known: a canary that died is down, and is shown as down, until the next one is ready.
        self._tokens = FIRST_TOKENS

    def skip_reason(self, history: History, now_ms: int) -> str | None:
        """Why a burst must be left out now, or None."""
        results = ((reason, query.evaluate_at(history, now_ms)) for reason, query in self._skip_queries.items())
        return next((reason for reason, result in results if len(result)), None)

    def maybe_burst(self, history: History, now_ms: int) -> None:
        """Starts one burst, unless it would hurt or the one before has not ended."""
        if self.ready is None or (self._burst is not None and not self._burst.done()):
            return
        self.last_skip_reason = self.skip_reason(history, now_ms)
        if self.last_skip_reason is None:
            self._burst = asyncio.get_running_loop().create_task(self._generate(self.ready.url), name="canary burst")

    async def _generate(self, url: str) -> None:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        request = {"prompt": PROMPT, "max_tokens": self._tokens, "temperature": 0}
        started = asyncio.get_running_loop().time()
        try:
            async with self._session.post(f"{url}/v1/completions", json=request) as response:
                body: Mapping[str, Any] = await response.json()
                tokens = body["usage"]["completion_tokens"]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            self._log.debug("canary burst failed", reason=str(error) or type(error).__name__)
            return
        elapsed = asyncio.get_running_loop().time() - started
        target_tokens = round(tokens / elapsed * self._settings.burst)
        self._tokens = min(max(target_tokens, 2), MAX_TOKENS)

    async def close(self) -> None:
        """Ends the engine."""
        if self._burst is not None:
            self._burst.cancel()
        if self._session is not None:
            await self._session.close()
        await self.child.close()


def canary_arguments(size: str) -> tuple[str, ...]:
    """The options of a canary's engine; the same make the same model, whose speeds may be compared."""
    memory_limit = ("--most", "0.05")  # of the free memory of its node
    return (
        "--size",
        size,
        *memory_limit,
        "--slots",
        "1",
        "--drain",
        "0",
    )  # one burst at a time, nobody waits for the last


_SINGLE_THREADED = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}  # one core, whatever the host's login shells say
