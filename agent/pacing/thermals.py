"""What heats the DIMMs of each engine, learnt from History whether anything is paced or not, and kept over restarts."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import structlog

from agent.pacing import asking, metrics, plant
from agent.pacing.control import PLAUSIBLE
from agent.pacing.terms import Terms
from agent.pacing.worth import Worth, worth
from collectors import Reading
from rules import promql
from rules.history import History

STORED = "pacing.json"
EVERY = 5.0  # seconds between two readings
DUTY = "min by (engine) (steadytok_engine_duty or steadytok_pace_duty)"
SPEED = """
  max by (engine) (steadytok_engine_tokens_per_second)
    / on (engine) (max by (engine) (steadytok_engine_baseline_tokens_per_second) > 0)
"""
EVIDENCE = 60.0  # seconds above the limit before the engine's speed there is believed
FADES = 600.0  # seconds of the mean of that speed
UNPACED = 0.99


@dataclass
class _Engine:
    learnt: plant.Learnt = field(default_factory=plant.Learnt)
    plant: plant.Plant | None = None
    crossed: bool = False
    above: float = 0.0
    """Seconds above the limit that `speed` is the mean of, as far as they count."""
    speed: float = 0.0
    worth: Worth | None = None
    pays: bool | None = None

    @property
    def throttled_speed(self) -> float | None:
        """The share of its baseline that the engine reached above the limit, None without evidence."""
        return self.speed if self.above >= EVIDENCE else None


class Thermals:
    """The plants of all engines; `observe` is asked every few seconds."""

    def __init__(self, stored: str | None, terms: Callable[[], Mapping[str, Terms]]) -> None:
        """`terms` gives those of the remedy that paces an engine, where there is one."""
        self._terms = terms
        self._engines: dict[str, _Engine] = {}
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
        rooms = [room for room in asking.headrooms(ask).values() if PLAUSIBLE[0] <= room <= PLAUSIBLE[1]]
        loads, duties, speeds = _by_engine(ask(asking.load("10s"))), _by_engine(ask(DUTY)), _by_engine(ask(SPEED))
        for name in self._engines.keys() | loads.keys():
            engine = self._engines.setdefault(name, _Engine())
            load, duty = loads.get(name), duties.get(name, 1.0)
            share = None if load is None else load * duty
            unpaced = speeds.get(name) if duty >= UNPACED else None
            _observed(engine, min(rooms, default=None), share, unpaced, seconds, self._of(name))

    def _of(self, engine: str) -> Terms:
        return self._terms().get(engine, Terms())

    def readings(self) -> Iterator[Reading]:
        """What is known of each engine."""
        for name, engine in self._engines.items():
            if engine.plant is not None and engine.worth is not None:
                yield from metrics.of_plant(
                    name, engine.plant, engine.throttled_speed, engine.worth, pays=bool(engine.pays)
                )

    def stored(self) -> str:
        """All that is worth keeping, as JSON."""
        kept = {
            name: {"learnt": plant.stored(engine.learnt), "above": engine.above, "speed": engine.speed}
            for name, engine in self._engines.items()
            if engine.learnt.weights.any()
        }
        return json.dumps({"version": 1, "engines": kept})

    def _restore(self, stored: str) -> None:
        try:
            for name, told in msgspec.json.decode(stored, type=_Stored).engines.items():
                engine = _Engine(plant.restored(told.learnt), above=told.above, speed=told.speed)
                engine.plant = plant.fitted(engine.learnt)
                self._engines[name] = engine
        except ValueError as error:  # msgspec's are, too
            self._engines = {}
            structlog.get_logger().warning("what heats the DIMMs cannot be read; learning anew", reason=str(error))


class _StoredEngine(msgspec.Struct):
    learnt: dict[str, list[object]]
    above: float
    speed: float


class _Stored(msgspec.Struct):
    version: int
    engines: dict[str, _StoredEngine]


def _observed(
    engine: _Engine, headroom: float | None, share: float | None, unpaced: float | None, seconds: float, terms: Terms
) -> None:
    if headroom is not None:
        engine.crossed = headroom <= terms.release if engine.crossed else headroom <= 0
    engine.learnt = plant.observe(engine.learnt, headroom, share, seconds, heated=not engine.crossed)
    engine.plant = plant.fitted(engine.learnt)
    if engine.crossed and headroom is not None and headroom <= 0 and unpaced is not None:
        engine.above = min(engine.above + seconds, FADES)
        engine.speed += (min(unpaced, 1.0) - engine.speed) * (seconds / engine.above)
    engine.worth = None
    if engine.plant is not None:
        engine.worth = worth(engine.plant, terms, terms.margin, engine.throttled_speed)
        engine.pays = engine.worth.pays(engine.pays)


def _by_engine(rows: list[tuple[dict[str, str], float]]) -> dict[str, float]:
    return {labels.get("engine", ""): value for labels, value in rows}


@functools.lru_cache(maxsize=64)
def _compiled(expr: str) -> promql.Query:
    return promql.compile(expr)


def _ask(history: History, now_ms: int, expr: str) -> list[tuple[dict[str, str], float]]:
    return [(dict(labels), value) for labels, value in _compiled(expr).at(history, now_ms)]
