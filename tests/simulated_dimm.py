"""A DIMM under an engine, simulated: first order with a dead time, behind a sensor that is late, coarse and noisy."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.pacing import controller
from agent.pacing.controller import ControlInputs, ControllerState
from agent.pacing.learner import EngineThermals
from agent.pacing.settings import ControlSettings
from agent.pacing.thermal_model import Plant


@dataclass
class Dimm:
    """Degrees are below the limit. `plant` may be exchanged while it runs: a fan has changed its speed."""

    plant: Plant
    dead_time: float = 5.0
    period: float = 2.0
    quantum: float = 0.25
    noise: float = 0.1
    headroom: float = 30.0
    throttled: float = 1.0
    """The share of full speed that the firmware leaves now."""
    relief: float = 1.0
    """How much heat throttling takes for the speed it takes: less than 1 where it stalls more than it saves."""
    seed: int = 0
    _late: deque[float] = field(default_factory=deque)
    _shown: float | None = None
    _age: float = math.inf

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def pass_second(self, share: float) -> None:
        """One second in which that share of the time was worked."""
        self._late.append(share * (1 - self.relief * (1 - self.throttled)))
        worked = self._late.popleft() if len(self._late) > self.dead_time else self._late[0]
        ends = self.plant.headroom(worked)
        self.headroom = ends + (self.headroom - ends) * math.exp(-1 / self.plant.time_constant)
        self._age += 1

    def read(self) -> float:
        """What the sensor shows: the newest of its readings, as coarse as it is."""
        if self._shown is None or self._age >= self.period:
            told = self.headroom + self._random.gauss(0, self.noise)
            self._shown, self._age = round(told / self.quantum) * self.quantum, 0
        return self._shown

    def throttle(self, terms: ControlSettings) -> None:
        """The firmware's steps, with their hysteresis."""
        above = -self.headroom
        left = min((share for over, share in terms.throttle if above >= over), default=1.0)
        released = min((share for over, share in terms.throttle if above >= over - terms.release), default=1.0)
        self.throttled = min(left, max(released, self.throttled))


@dataclass(frozen=True)
class Second:
    """What happened in one second."""

    at: int
    headroom: float
    duty: float
    state: ControllerState
    tokens: float
    """Share of full speed."""


def run(
    dimm: Dimm,
    terms: ControlSettings,
    seconds: int,
    *,
    state: ControllerState | None = None,
    load: Callable[[int], float] = lambda _: 1.0,
    blind: Callable[[int], bool] = lambda _: False,
    disturb: Callable[[int, Dimm], None] = lambda *_: None,
    steered: bool = True,
) -> Iterator[Second]:
    """The loop as the agent has it: the plant is learnt and the duty moved each five seconds."""
    state = state or controller.begin_state(0.7)
    known = EngineThermals()
    every = int(controller.STEP_SECONDS)
    for at in range(seconds):
        disturb(at, dimm)
        duty = state.duty if steered else 1.0
        share = duty * load(at)
        dimm.throttle(terms)
        tokens = share * dimm.throttled * (1 - terms.refresh if dimm.headroom <= 0 else 1)
        dimm.pass_second(share)
        yield Second(at, dimm.headroom, duty, state, tokens)
        if at % every == 0:
            headroom = None if blind(at) else dimm.read()
            known.observe(headroom, share, None if duty < 1 or not share else tokens / share, every, terms, dimm.period)
            told = {} if headroom is None else {"A": headroom}
            seen = ControlInputs(told, load(at), dimm.period, known.plant, known.throttled_speed)
            state = controller.step(state, seen, terms, every)
