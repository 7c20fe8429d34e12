"""
What tokens per second should be: the one place that knows.

Per engine, model and number of requests at once the 90th percentile of decode tokens per decode second, learnt while
the engine runs and nothing hurts it. By the number of requests, because engines count each request's decode time for
itself: a busy batch makes fewer tokens in each of its seconds and is not slow for that.

Kept as counts in bins of one percent, so that it is small, exact to a percent, and follows a changed host within days:
the counts are halved once a day's worth is in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec
import structlog

from agent.engines.placement_baseline import MeanShares, PlacementBaseline, ProcessKey
from rules import promql
from rules.history.history import History

BIN_WIDTH = math.log(1.01)
QUANTILE = 0.9
MIN_OBSERVATIONS = 60  # observations before a baseline is told: five minutes, one each five seconds
DAY_OBSERVATIONS = 17_280  # observations, one each five seconds
MEASURED_OBSERVATIONS = (
    DAY_OBSERVATIONS // 9
)  # observations that a measurement by hand counts for: it stays the 90th percentile for a day
WINDOW = "30s"

# Decode tokens per decode second where the engine counts both; else tokens per second of an engine that was never idle.
SPEED_QUERY = f"""
  increase(steadytok_engine_generated_tokens_total[{WINDOW}])
    / (increase(steadytok_engine_decode_seconds_total[{WINDOW}]) > 0)
or
  (rate(steadytok_engine_generated_tokens_total[{WINDOW}]) > 0)
    and min_over_time(steadytok_engine_requests_running[{WINDOW}]) > 0
"""
PLACEMENT_QUERY = "steadytok_process_node_share_ratio"
HEALTHY_SHARE = 0.9  # of the baseline: an engine that is slower than this shows no placement to hold on to
PACED_QUERY = "steadytok_engine_duty < 1 or steadytok_pace_duty < 1"
RUNNING_QUERY = f"max_over_time(steadytok_engine_requests_running[{WINDOW}])"
# What the rules have found counts too: on AMD only they see that a processor was slowed.
DISTURBED_QUERY = """
  min(steadytok_dimm_headroom_celsius) < 10
or
  sum(increase(steadytok_thermal_throttle_core_events_total[2m])) > 0
or
  sum(increase(steadytok_thermal_throttle_package_events_total[2m])) > 0
or
  count(ALERTS{
    alertstate="firing",
    alertname=~"DimmHot|CpuThermalThrottling|NumaAllocationDrift|PlacementDrift|MemoryPressure|WeightsEvicted"
  })
"""


class BaselineKey(NamedTuple):
    """What a baseline belongs to."""

    engine: str
    model: str = ""
    batch: str = "1"


class _BaselineFile(msgspec.Struct):
    version: int
    bins: dict[str, dict[str, int]]
    placements: dict[str, MeanShares] = {}


class Baseline:
    """The baselines of all engines; `learn` is asked every few seconds, `now` at each tick."""

    def __init__(self, stored: str | None = None) -> None:
        self._bins: dict[BaselineKey, Counter[int]] = {}
        self._queries: dict[str, promql.Query] = {name: promql.compile(text) for name, text in _QUERIES.items()}
        self.models: dict[str, str] = {}
        self._batches: dict[str, str] = {}
        self._placement_baseline = PlacementBaseline()
        if stored is not None:
            self._restore(stored)

    def _restore(self, stored: str) -> None:
        try:
            content = msgspec.json.decode(stored, type=_BaselineFile)
            self._bins = {
                BaselineKey(*key.split("\x1f")): Counter(
                    {_parse_bin(index): count for index, count in counts.items() if count > 0}
                )
                for key, counts in content.bins.items()
            }
            self._placement_baseline.restore(content.placements)
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
            structlog.get_logger().warning("the stored baseline cannot be read; learning anew", reason=str(error))

    def dump(self) -> str:
        """All baselines as JSON, to be given to the next start."""
        bins = {"\x1f".join(key): {str(index): n for index, n in counts.items()} for key, counts in self._bins.items()}
        return msgspec.json.encode(_BaselineFile(1, bins, self._placement_baseline.dump())).decode()

    def query_speeds(self, history: History, at_ms: int) -> dict[str, float]:
        """Tokens per second of each engine now; an idle engine is not in it. Takes note of their batches."""
        running = self._queries["running"].evaluate_at(history, at_ms).index_by("engine")
        self._batches = {engine: _batch_bucket(requests) for engine, requests in running.items()}
        return self._queries["now"].evaluate_at(history, at_ms).index_by("engine")

    def learn(self, history: History, at_ms: int) -> None:
        """Takes the present speeds in, except of engines that are paced, and not while heat hurts the host."""
        if len(self._queries["hurt"].evaluate_at(history, at_ms).labels):
            return
        paced = self._queries["paced"].evaluate_at(history, at_ms).index_by("engine")
        placements = self._query_placements(history, at_ms)
        for engine, speed in self.query_speeds(history, at_ms).items():
            if engine in paced:
                continue
            for rank, shares in (
                placements.get(engine, {}).items()
                if speed >= HEALTHY_SHARE * (self.expected_speed(engine) or 0.0)
                else ()
            ):
                self._placement_baseline.observe(ProcessKey(engine, self.models.get(engine, ""), rank), shares)
            self.observe(self.current_key(engine), speed)

    def iter_drifts(self, history: History, at_ms: int) -> Iterator[tuple[str, str, float]]:
        """(engine, rank, drift) of each process whose placement has been learnt, 0 to 1."""
        for engine, ranks in self._query_placements(history, at_ms).items():
            for rank, shares in ranks.items():
                drift = self._placement_baseline.measure_drift(
                    ProcessKey(engine, self.models.get(engine, ""), rank), shares
                )
                if drift is not None:
                    yield engine, rank, drift

    def _query_placements(self, history: History, at_ms: int) -> dict[str, dict[str, dict[str, float]]]:
        """Where the memory of each engine and rank is now, as shares by node."""
        placements: dict[str, dict[str, dict[str, float]]] = {}
        for labels, share in self._queries["placed"].evaluate_at(history, at_ms).to_dicts():
            ranks = placements.setdefault(labels.get("engine", ""), {})
            ranks.setdefault(labels.get("rank", ""), {})[labels.get("node", "")] = share
        return placements

    def source_metrics(self, query: Literal["now", "placed"]) -> frozenset[str]:
        """The metrics that speeds, or drifts, are made of."""
        return self._queries[query].names

    def current_key(self, engine: str) -> BaselineKey:
        """The key that an engine's present model and batch have."""
        return BaselineKey(engine, self.models.get(engine, ""), self._batches.get(engine, "1"))

    def observe(self, key: BaselineKey, speed: float) -> None:
        """Takes one speed in."""
        if not (speed > 0 and math.isfinite(speed)):
            return
        bins = self._bins.setdefault(key, Counter())
        bins[round(math.log(speed) / BIN_WIDTH)] += 1
        if bins.total() > DAY_OBSERVATIONS:
            self._bins[key] = Counter({index: count // 2 for index, count in bins.items() if count > 1})

    def set_measured(self, key: BaselineKey, speed: float) -> None:
        """Sets a baseline that was measured by hand; learning goes on from it. Raises ValueError."""
        if not (speed > 0 and math.isfinite(speed)):
            raise ValueError(f"{speed} tokens/s cannot be a baseline")
        self._bins[key] = Counter({round(math.log(speed) / BIN_WIDTH): MEASURED_OBSERVATIONS})

    def learning_progress(self, engine: str) -> float:
        """How much of what is needed for a baseline has been learnt, 0 to 1."""
        bins = self._bins.get(self.current_key(engine))
        return min(1.0, bins.total() / MIN_OBSERVATIONS) if bins else 0.0

    def expected_speed(self, engine: str) -> float | None:
        """Tokens per second that the engine should have, or None while it is being learnt."""
        bins = self._bins.get(self.current_key(engine))
        if bins is None or bins.total() < MIN_OBSERVATIONS:
            return None
        remaining = QUANTILE * bins.total()
        for index in sorted(bins):
            remaining -= bins[index]
            if remaining <= 0:
                return math.exp(index * BIN_WIDTH)
        return None


def _parse_bin(text: str) -> int:
    math.exp(int(text) * BIN_WIDTH)  # OverflowError here, and not at each tick
    return int(text)


def _batch_bucket(running: float) -> str:
    """The number of requests at once, by powers of two: 1, 2 (and 3), 4 (to 7), …"""
    return str(2 ** int(math.log2(running))) if running >= 1 and math.isfinite(running) else "1"


_QUERIES = {
    "now": SPEED_QUERY,
    "paced": PACED_QUERY,
    "hurt": DISTURBED_QUERY,
    "running": RUNNING_QUERY,
    "placed": PLACEMENT_QUERY,
}
