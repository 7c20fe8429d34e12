"""A DIMM under an engine, simulated: first order with a dead time, measured by a late, coarse and noisy sensor."""

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
    """`headroom` is in degrees below the limit. A test may replace `plant` meanwhile: a fan changed its speed."""

    plant: Plant
    dead_time: float = 5.0
    period: float = 2.0
    quantum: float = 0.25
    noise: float = 0.1
    headroom: float = 30.0
    throttle_share: float = 1.0
    """The share of full speed that the firmware allows now."""
    relief: float = 1.0
    """The heat that throttling saves, relative to the speed that it costs; below 1 it stalls more than it saves."""
    seed: int = 0
    _delayed_shares: deque[float] = field(default_factory=deque)
    _reading: float | None = None
    _reading_age: float = math.inf

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def pass_second(self, share: float) -> None:
        """Simulates one second in which the engine works that share of the time."""
        self._delayed_shares.append(share * (1 - self.relief * (1 - self.throttle_share)))
        effective_share = (
            self._delayed_shares.popleft() if len(self._delayed_shares) > self.dead_time else self._delayed_shares[0]
        )
        target = self.plant.headroom(effective_share)
        self.headroom = target + (self.headroom - target) * math.exp(-1 / self.plant.time_constant)
        self._reading_age += 1

    def read(self) -> float:
        """The newest reading of the sensor, rounded to its quantum."""
        if self._reading is None or self._reading_age >= self.period:
            noisy_headroom = self.headroom + self._random.gauss(0, self.noise)
            self._reading, self._reading_age = round(noisy_headroom / self.quantum) * self.quantum, 0
        return self._reading

    def throttle(self, settings: ControlSettings) -> None:
        """Applies the firmware's throttling steps, with their hysteresis."""
        excess = -self.headroom
        engaged_share = min((share for threshold, share in settings.throttle if excess >= threshold), default=1.0)
        released_share = min(
            (share for threshold, share in settings.throttle if excess >= threshold - settings.release), default=1.0
        )
        self.throttle_share = min(engaged_share, max(released_share, self.throttle_share))


@dataclass(frozen=True)
class Second:
    """The state of the simulation after one second."""

    at: int
    headroom: float
    duty: float
    state: ControllerState
    tokens: float
    """Share of full speed."""


def simulate(
    dimm: Dimm,
    settings: ControlSettings,
    seconds: int,
    *,
    state: ControllerState | None = None,
    load: Callable[[int], float] = lambda _: 1.0,
    is_blind: Callable[[int], bool] = lambda _: False,
    disturb: Callable[[int, Dimm], None] = lambda *_: None,
    is_steered: bool = True,
) -> Iterator[Second]:
    """Simulates the control loop as the agent runs it: the plant is learnt and the duty moved every five seconds."""
    state = state or controller.begin_state(0.7)
    thermals = EngineThermals()
    step_seconds = int(controller.STEP_SECONDS)
    for at in range(seconds):
        disturb(at, dimm)
        duty = state.duty if is_steered else 1.0
        share = duty * load(at)
        dimm.throttle(settings)
        tokens = share * dimm.throttle_share * (1 - settings.refresh if dimm.headroom <= 0 else 1)
        dimm.pass_second(share)
        yield Second(at, dimm.headroom, duty, state, tokens)
        if at % step_seconds == 0:
            headroom = None if is_blind(at) else dimm.read()
            thermals.observe(
                headroom, share, None if duty < 1 or not share else tokens / share, step_seconds, settings, dimm.period
            )
            headrooms = {} if headroom is None else {"A": headroom}
            control_inputs = ControlInputs(headrooms, load(at), dimm.period, thermals.plant, thermals.throttled_speed)
            state = controller.step(state, control_inputs, settings, step_seconds)
