"""Learns the thermal model of each engine's DIMMs from History, paced or not, and keeps it over restarts."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import structlog

from agent.pacing import inputs, metrics, thermal_model
from agent.pacing.benefit import Benefit, estimate_benefit
from agent.pacing.controller import PLAUSIBLE_HEADROOM
from agent.pacing.settings import ControlSettings
from collectors import Reading
from rules import promql
from rules.history.history import History

STATE_FILE = "pacing.json"
OBSERVE_SECONDS = 5.0  # seconds between two readings
DUTY_QUERY = "min by (engine) (steadytok_engine_duty or steadytok_pace_duty)"
SPEED_QUERY = """
  max by (engine) (steadytok_engine_tokens_per_second)
    / on (engine) (max by (engine) (steadytok_engine_baseline_tokens_per_second) > 0)
"""
REGIME_SECONDS = 600.0  # seconds after the limit was reached in which the firmware may still throttle
EVIDENCE_SECONDS = 120.0  # seconds of throttling before the engine's speed is believed
UNPACED_DUTY = 0.99
GONE_SECONDS = 900.0  # seconds of silence after which an engine is no longer exposed


@dataclass
class EngineThermals:
    """The thermal model of one engine and its hottest DIMM."""

    statistics: thermal_model.PlantStatistics = field(default_factory=thermal_model.PlantStatistics)
    plant: thermal_model.Plant | None = None
    crossed: bool = False
    since_crossed: float = math.inf
    throttled_seconds: float = 0.0
    """Seconds of the firmware's throttling that `speed` is a mean of, at most REGIME_SECONDS."""
    speed: float = 0.0
    """The mean speed in those seconds, as a share of the baseline."""
    benefit: Benefit | None = None
    pays: bool | None = None
    silent_seconds: float = 0.0
    """Seconds since the last load of the engine."""

    @property
    def throttled_speed(self) -> float | None:
        """The share of its speed that throttling left the engine, pauses included; None without evidence."""
        return self.speed if self.throttled_seconds >= EVIDENCE_SECONDS else None

    def observe(
        self,
        headroom: float | None,
        share: float | None,
        unpaced: float | None,
        seconds: float,
        settings: ControlSettings,
        period: float = 2.0,
    ) -> None:
        """
        Takes in the hottest DIMM's headroom and the share of the last `seconds` that was worked.

        `period`: seconds between two readings of the DIMM's sensor. `unpaced`: the engine's speed as a share of its
        baseline; None while it is paced or idle, or without a baseline.
        """
        self.since_crossed += seconds
        self.silent_seconds = self.silent_seconds + seconds if share is None else 0.0
        if headroom is not None:
            self.crossed = headroom <= settings.release if self.crossed else headroom <= 0
            self.since_crossed = 0.0 if headroom <= 0 else self.since_crossed
        self.statistics = thermal_model.observe(
            self.statistics, headroom, share, seconds, heated=not self.crossed, period=period
        )
        self.plant = thermal_model.fit_plant(self.statistics)
        if unpaced is not None and self.since_crossed <= REGIME_SECONDS:
            self.throttled_seconds = min(self.throttled_seconds + seconds, REGIME_SECONDS)
            self.speed += (min(unpaced, 1.0) - self.speed) * (seconds / self.throttled_seconds)
        self.benefit = (
            None
            if self.plant is None
            else estimate_benefit(self.plant, settings, settings.margin, self.throttled_speed)
        )
        self.pays = None if self.benefit is None else self.benefit.pays(self.pays)


class PlantLearner:
    """The plants of all engines; `observe` is called every few seconds."""

    def __init__(self, stored: str | None, settings: Callable[[], Mapping[str, ControlSettings]]) -> None:
        """`settings` returns the control settings of each engine that a remedy paces."""
        self._settings = settings
        self._engines: dict[str, EngineThermals] = {}
        self._last_ms: int | None = None
        if stored is not None:
            self.restore(stored)

    def observe(self, history: History, now_ms: int) -> None:
        """Takes in the present readings; after an unreadable one the model waits until its past has faded."""
        seconds = OBSERVE_SECONDS if self._last_ms is None else (now_ms - self._last_ms) / 1000
        self._last_ms = now_ms
        if seconds <= 0:  # the wall clock was set back
            return
        query = functools.partial(_query, history, now_ms)
        headrooms = [
            headroom
            for headroom in inputs.read_headrooms(query).values()
            if PLAUSIBLE_HEADROOM[0] <= headroom <= PLAUSIBLE_HEADROOM[1]
        ]
        period = inputs.read_period(query)
        loads, duties, speeds = (
            inputs.index_by_engine(query(inputs.build_load_query("10s"))),
            inputs.index_by_engine(query(DUTY_QUERY)),
            inputs.index_by_engine(query(SPEED_QUERY)),
        )
        for name in self._engines.keys() | loads.keys():
            engine = self._engines.setdefault(name, EngineThermals())
            load, duty = loads.get(name), duties.get(name, 1.0)
            share = None if load is None else load * duty
            unpaced = speeds.get(name) if duty >= UNPACED_DUTY else None
            engine.observe(min(headrooms, default=None), share, unpaced, seconds, self._settings_of(name), period)

    def _settings_of(self, engine: str) -> ControlSettings:
        return self._settings().get(engine, ControlSettings())

    def readings(self) -> Iterator[Reading]:
        """Yields the model of each engine, through silences of minutes; a removed engine has none."""
        for name, engine in self._engines.items():
            if engine.plant is not None and engine.benefit is not None and engine.silent_seconds < GONE_SECONDS:
                yield from metrics.report_plant(
                    name, engine.plant, engine.throttled_speed, engine.benefit, pays=bool(engine.pays)
                )

    def to_json(self) -> str:
        """Returns the learnt models as JSON."""
        engines = {
            name: {
                "learnt": thermal_model.to_builtins(engine.statistics),
                "left": engine.throttled_seconds,
                "speed": engine.speed,
            }
            for name, engine in self._engines.items()
            if engine.statistics.weights.any()
        }
        return json.dumps({"version": 1, "engines": engines})

    def restore(self, stored: str) -> bool:
        """Takes over what `to_json` returned; returns False, and logs, where the text is damaged."""
        try:
            for name, saved in msgspec.json.decode(stored, type=_StoredEngines).engines.items():
                engine = EngineThermals(
                    thermal_model.from_builtins(saved.learnt), throttled_seconds=saved.left, speed=saved.speed
                )
                engine.plant = thermal_model.fit_plant(engine.statistics)
                self._engines[name] = engine
        except ValueError as error:  # msgspec's errors too
            self._engines = {}
            structlog.get_logger().warning("the stored thermal models cannot be read; learning anew", reason=str(error))
            return False
        return True


class _StoredEngine(msgspec.Struct):
    learnt: dict[str, list[object]]
    left: float
    speed: float


class _StoredEngines(msgspec.Struct):
    version: int
    engines: dict[str, _StoredEngine]


@functools.lru_cache(maxsize=64)
def _compile(expr: str) -> promql.Query:
    return promql.compile(expr)


def _query(history: History, now_ms: int, expr: str) -> list[tuple[dict[str, str], float]]:
    return _compile(expr).evaluate_at(history, now_ms).to_dicts()
