"""What heats the DIMMs of each engine, learnt from History whether anything is paced or not, and kept over restarts."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import structlog

from agent.pacing import inputs, metrics
from agent.pacing import thermal_model as plant
from agent.pacing.benefit import Worth, worth
from agent.pacing.controller import PLAUSIBLE
from agent.pacing.settings import Terms
from collectors import Reading
from rules import promql
from rules.history.history import History

STORED = "pacing.json"
EVERY = 5.0  # seconds between two readings
DUTY = "min by (engine) (steadytok_engine_duty or steadytok_pace_duty)"
SPEED = """
  max by (engine) (steadytok_engine_tokens_per_second)
    / on (engine) (max by (engine) (steadytok_engine_baseline_tokens_per_second) > 0)
"""
REGIME = 600.0  # seconds after the limit was reached in which the firmware is still what slows the engine, and lets go
EVIDENCE = 120.0  # seconds of that before the engine's speed is believed
UNPACED = 0.99
GONE = 900.0  # seconds without a word of an engine until nothing is told of it


@dataclass
class Engine:
    """One engine and its hottest DIMM."""

    learnt: plant.Learnt = field(default_factory=plant.Learnt)
    plant: plant.Plant | None = None
    crossed: bool = False
    since_crossed: float = math.inf
    left: float = 0.0
    """Seconds that it was left to the firmware, as far as they count."""
    speed: float = 0.0
    """The mean of its speed then, as a share of its baseline."""
    worth: Worth | None = None
    pays: bool | None = None
    unseen: float = 0.0
    """Seconds since anything was heard of it."""

    @property
    def throttled_speed(self) -> float | None:
        """The share of its speed that throttling left it, the pauses in between included; None without evidence."""
        return self.speed if self.left >= EVIDENCE else None

    def observe(
        self,
        headroom: float | None,
        share: float | None,
        unpaced: float | None,
        seconds: float,
        terms: Terms,
        period: float = 2.0,
    ) -> None:
        """
        The hottest DIMM's headroom, the share of the last `seconds` that was worked, and what is made of them.

        `period`: seconds between two readings of the DIMM's sensor.
        `unpaced`: the engine's speed as a share of its baseline, None while it is paced, idle or without one.
        """
        self.since_crossed += seconds
        self.unseen = self.unseen + seconds if share is None else 0.0
        if headroom is not None:
            self.crossed = headroom <= terms.release if self.crossed else headroom <= 0
            self.since_crossed = 0.0 if headroom <= 0 else self.since_crossed
        self.learnt = plant.observe(self.learnt, headroom, share, seconds, heated=not self.crossed, period=period)
        self.plant = plant.fitted(self.learnt)
        if unpaced is not None and self.since_crossed <= REGIME:
            self.left = min(self.left + seconds, REGIME)
            self.speed += (min(unpaced, 1.0) - self.speed) * (seconds / self.left)
        self.worth = None if self.plant is None else worth(self.plant, terms, terms.margin, self.throttled_speed)
        self.pays = None if self.worth is None else self.worth.pays(self.pays)


class Thermals:
    """The plants of all engines; `observe` is asked every few seconds."""

    def __init__(self, stored: str | None, terms: Callable[[], Mapping[str, Terms]]) -> None:
        """`terms` gives those of the remedy that paces an engine, where there is one."""
        self._terms = terms
        self._engines: dict[str, Engine] = {}
        self._last_ms: int | None = None
        if stored is not None:
            self._restore(stored)

    def observe(self, history: History, now_ms: int) -> None:
        """Takes the present readings in; what cannot be read breaks off what is being followed."""
        seconds = EVERY if self._last_ms is None else (now_ms - self._last_ms) / 1000
        self._last_ms = now_ms
        if seconds <= 0:  # the wall clock was set back
            return
        ask = functools.partial(_ask, history, now_ms)
        rooms = [room for room in inputs.headrooms(ask).values() if PLAUSIBLE[0] <= room <= PLAUSIBLE[1]]
        period = inputs.period(ask)
        loads, duties, speeds = _by_engine(ask(inputs.load("10s"))), _by_engine(ask(DUTY)), _by_engine(ask(SPEED))
        for name in self._engines.keys() | loads.keys():
            engine = self._engines.setdefault(name, Engine())
            load, duty = loads.get(name), duties.get(name, 1.0)
            share = None if load is None else load * duty
            unpaced = speeds.get(name) if duty >= UNPACED else None
            engine.observe(min(rooms, default=None), share, unpaced, seconds, self._of(name), period)

    def _of(self, engine: str) -> Terms:
        return self._terms().get(engine, Terms())

    def readings(self) -> Iterator[Reading]:
        """What is known of each engine, also while it is silent for some minutes; one that has left is not told of."""
        for name, engine in self._engines.items():
            if engine.plant is not None and engine.worth is not None and engine.unseen < GONE:
                yield from metrics.of_plant(
                    name, engine.plant, engine.throttled_speed, engine.worth, pays=bool(engine.pays)
                )

    def stored(self) -> str:
        """All that is worth keeping, as JSON."""
        kept = {
            name: {"learnt": plant.stored(engine.learnt), "left": engine.left, "speed": engine.speed}
            for name, engine in self._engines.items()
            if engine.learnt.weights.any()
        }
        return json.dumps({"version": 1, "engines": kept})

    def _restore(self, stored: str) -> None:
        try:
            for name, told in msgspec.json.decode(stored, type=_Stored).engines.items():
                engine = Engine(plant.restored(told.learnt), left=told.left, speed=told.speed)
                engine.plant = plant.fitted(engine.learnt)
                self._engines[name] = engine
        except ValueError as error:  # msgspec's are, too
            self._engines = {}
            structlog.get_logger().warning("what heats the DIMMs cannot be read; learning anew", reason=str(error))


class _StoredEngine(msgspec.Struct):
    learnt: dict[str, list[object]]
    left: float
    speed: float


class _Stored(msgspec.Struct):
    version: int
    engines: dict[str, _StoredEngine]


def _by_engine(rows: list[tuple[dict[str, str], float]]) -> dict[str, float]:
    return {labels.get("engine", ""): value for labels, value in rows}


@functools.lru_cache(maxsize=64)
def _compiled(expr: str) -> promql.Query:
    return promql.compile(expr)


def _ask(history: History, now_ms: int, expr: str) -> list[tuple[dict[str, str], float]]:
    return [(dict(labels), value) for labels, value in _compiled(expr).at(history, now_ms)]
