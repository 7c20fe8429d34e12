"""How fast an engine says that it decodes: the numbers by which the agent judges it, where it tells them."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from agent.sampling import plugins
from collectors import Host

_NAME = "measured"


class Counters:
    """Asks one engine's metrics, through the collector that the agent has; each `speed` is since the one before."""

    def __init__(self, modules: Mapping[str, ModuleType], url: str) -> None:
        module = modules["engine"]
        own = module.Config(engines=(module.Target(name=_NAME, url=url),))
        self._collector = plugins.bind(module, "engine", interval=None, deadline=None, own=own)
        self._host = Host("/")
        self._before = self._read()

    def speed(self) -> float | None:
        """Decode tokens per decode second since the last time; None where the engine does not tell, or did nothing."""
        before, self._before = self._before, self._read()
        if before is None or self._before is None:
            return None
        tokens, seconds = (after - old for after, old in zip(self._before, before, strict=True))
        return tokens / seconds if tokens > 0 and seconds > 0 else None

    def _read(self) -> tuple[float, float] | None:
        samples = [sample for sample in self._collector.collect(self._host) if sample is not None]
        self._host.take_notes()
        values = {sample.metric.name: sample.value for sample in samples}
        tokens = values.get("steadytok_engine_generated_tokens_total")
        seconds = values.get("steadytok_engine_decode_seconds_total")
        return None if tokens is None or seconds is None else (tokens, seconds)
