"""
Learns the speed that each engine should have: its baseline of tokens per second.

The baseline is the 90th percentile of decode tokens per decode second, for each engine, model and number of concurrent
requests. It is learnt while the engine runs undisturbed. The number of requests matters because engines count the
decode time of each request separately: a busy batch has fewer tokens per decode second without being slow.

Observations are counted in bins of one percent. So the file is small, the result is exact to a percent, and the
baseline follows a changed host within days: after a day's worth of observations the counts are halved.
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
MIN_OBSERVATIONS = 60  # observations before there is a baseline: five minutes, one every five seconds
DAY_OBSERVATIONS = 17_280  # observations, one every five seconds
MEASURED_OBSERVATIONS = DAY_OBSERVATIONS // 9  # of a manual measurement: it stays the 90th percentile for a day
WINDOW = "30s"

# Decode tokens per decode second if the engine counts both, else tokens per second of an engine that was never idle.
SPEED_QUERY = f"""
  increase(steadytok_engine_generated_tokens_total[{WINDOW}])
    / (increase(steadytok_engine_decode_seconds_total[{WINDOW}]) > 0)
or
  (rate(steadytok_engine_generated_tokens_total[{WINDOW}]) > 0)
    and min_over_time(steadytok_engine_requests_running[{WINDOW}]) > 0
"""
PLACEMENT_QUERY = "steadytok_process_node_share_ratio"
HEALTHY_SHARE = 0.9  # of the baseline: the placement of an engine slower than this is not learnt
PACED_QUERY = "steadytok_engine_duty < 1 or steadytok_pace_duty < 1"
RUNNING_QUERY = f"max_over_time(steadytok_engine_requests_running[{WINDOW}])"
# Firing alerts count too: on AMD only the rules notice that a processor was throttled.
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
    """The engine, model and batch bucket that a baseline belongs to."""

    engine: str
    model: str = ""
    batch: str = "1"


class _BaselineFile(msgspec.Struct):
    version: int
    bins: dict[str, dict[str, int]]
    placements: dict[str, MeanShares] = {}


class Baseline:
    """The baselines of all engines; `learn` runs every few seconds, `query_speeds` at each tick."""

    def __init__(self, stored: str | None = None) -> None:
        self._bins: dict[BaselineKey, Counter[int]] = {}
        self._queries: dict[str, promql.Query] = {name: promql.compile(text) for name, text in _QUERIES.items()}
        self.models: dict[str, str] = {}
        self._batches: dict[str, str] = {}
        self._placement_baseline = PlacementBaseline()
        if stored is not None:
            self.restore(stored)

    def restore(self, stored: str) -> bool:
        """Takes over what `dump` returned; returns False, and logs, where the text is damaged."""
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
            self._bins = {}
            structlog.get_logger().warning("the stored baseline cannot be read; learning anew", reason=str(error))
            return False
        return True

    def dump(self) -> str:
        """Returns all baselines as JSON, for the next start."""
        bins = {"\x1f".join(key): {str(index): n for index, n in counts.items()} for key, counts in self._bins.items()}
        return msgspec.json.encode(_BaselineFile(1, bins, self._placement_baseline.dump())).decode()

    def query_speeds(self, history: History, at_ms: int) -> dict[str, float]:
        """
        Returns the current tokens per second by engine, without idle engines; also updates the engines' batch buckets.
        """
        running = self._queries["running"].evaluate_at(history, at_ms).index_by("engine")
        self._batches = {engine: _compute_batch_bucket(requests) for engine, requests in running.items()}
        return self._queries["now"].evaluate_at(history, at_ms).index_by("engine")

    def learn(self, history: History, at_ms: int) -> None:
        """Learns the current speeds, except of paced engines, and not while the host is disturbed."""
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
        """Yields the engine, rank and drift (0 to 1) of each process whose placement has been learnt."""
        for engine, ranks in self._query_placements(history, at_ms).items():
            for rank, shares in ranks.items():
                drift = self._placement_baseline.measure_drift(
                    ProcessKey(engine, self.models.get(engine, ""), rank), shares
                )
                if drift is not None:
                    yield engine, rank, drift

    def _query_placements(self, history: History, at_ms: int) -> dict[str, dict[str, dict[str, float]]]:
        """Returns the current share of each node in the memory of each engine and rank."""
        placements: dict[str, dict[str, dict[str, float]]] = {}
        for labels, share in self._queries["placed"].evaluate_at(history, at_ms).to_dicts():
            ranks = placements.setdefault(labels.get("engine", ""), {})
            ranks.setdefault(labels.get("rank", ""), {})[labels.get("node", "")] = share
        return placements

    def source_metrics(self, query: Literal["now", "placed"]) -> frozenset[str]:
        """Returns the metrics that the speeds, or the placements, are computed from."""
        return self._queries[query].names

    def current_key(self, engine: str) -> BaselineKey:
        """Returns the key for an engine's current model and batch."""
        return BaselineKey(engine, self.models.get(engine, ""), self._batches.get(engine, "1"))

    def observe(self, key: BaselineKey, speed: float) -> None:
        """Adds one observation of the speed."""
        if not (speed > 0 and math.isfinite(speed)):
            return
        bins = self._bins.setdefault(key, Counter())
        bins[round(math.log(speed) / BIN_WIDTH)] += 1
        if bins.total() > DAY_OBSERVATIONS:
            self._bins[key] = Counter({index: count // 2 for index, count in bins.items() if count > 1})

    def set_measured(self, key: BaselineKey, speed: float) -> None:
        """Sets a baseline that was measured by hand, from which learning continues. Raises ValueError."""
        if not (speed > 0 and math.isfinite(speed)):
            raise ValueError(f"{speed} tokens/s cannot be a baseline")
        self._bins[key] = Counter({round(math.log(speed) / BIN_WIDTH): MEASURED_OBSERVATIONS})

    def learning_progress(self, engine: str) -> float:
        """Returns the fraction of the observations needed for a baseline, 0 to 1."""
        bins = self._bins.get(self.current_key(engine))
        return min(1.0, bins.total() / MIN_OBSERVATIONS) if bins else 0.0

    def expected_speed(self, engine: str) -> float | None:
        """Returns the tokens per second that the engine should have; None while the baseline is being learnt."""
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
    math.exp(int(text) * BIN_WIDTH)  # raises OverflowError here instead of at each tick
    return int(text)


def _compute_batch_bucket(running: float) -> str:
    """Returns the number of concurrent requests rounded down to a power of two: 1, 2 (and 3), 4 (to 7), …"""
    return str(2 ** int(math.log2(running))) if running >= 1 and math.isfinite(running) else "1"


_QUERIES = {
    "now": SPEED_QUERY,
    "paced": PACED_QUERY,
    "hurt": DISTURBED_QUERY,
    "running": RUNNING_QUERY,
    "placed": PLACEMENT_QUERY,
}
