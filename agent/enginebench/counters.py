"""Measures an engine's decode speed by its own counters, as the agent does."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from agent.sampling import plugins
from collectors import Host

_ENGINE = "engine"  # the collector that samples engines
_NAME = "measured"


class EngineCounters:
    """Reads one engine's counters through the agent's collector."""

    def __init__(self, modules: Mapping[str, ModuleType], url: str) -> None:
        module = modules[_ENGINE]
        engine_config = module.Config(engines=(module.EngineEndpoint(name=_NAME, url=url),))
        self._collector = plugins.bind_collector(module, _ENGINE, interval=None, deadline=None, config=engine_config)
        self._host = Host("/")
        self._previous = self._read_counters()

    def measure_speed(self) -> float | None:
        """Returns decode tokens per decode second since the last call; None without counters or without work."""
        previous, self._previous = self._previous, self._read_counters()
        if previous is None or self._previous is None:
            return None
        tokens, seconds = (later - earlier for later, earlier in zip(self._previous, previous, strict=True))
        return tokens / seconds if tokens > 0 and seconds > 0 else None

    def _read_counters(self) -> tuple[float, float] | None:
        samples = [sample for sample in self._collector.collect(self._host) if sample is not None]
        self._host.take_notes()
        values = {sample.metric.name: sample.value for sample in samples}
        tokens = values.get("steadytok_engine_generated_tokens_total")
        seconds = values.get("steadytok_engine_decode_seconds_total")
        return None if tokens is None or seconds is None else (tokens, seconds)
