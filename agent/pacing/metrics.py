"""The controller's metrics; it also reads gain, time constant and idle headroom back from History."""

from __future__ import annotations

from collections.abc import Iterator

from agent.pacing.benefit import Benefit
from agent.pacing.controller import ControllerState
from agent.pacing.thermal_model import Plant
from collectors import Reading, gauge

GAIN = gauge("steadytok_pace_gain_celsius", "Degrees that the engine adds to its hottest DIMM when it always works.")
TIME_CONSTANT = gauge("steadytok_pace_time_constant_seconds", "Time in which that DIMM goes two thirds of its way.")
IDLE = gauge(
    "steadytok_pace_idle_headroom_celsius", "Degrees below its limit at which that DIMM ends when all is idle."
)
SPEED = gauge(
    "steadytok_pace_throttled_speed_ratio",
    "Speed under the firmware's throttling, as a share of the baseline.",
)
PREDICTED = gauge("steadytok_pace_predicted_duty", "Decode-seconds per second that hold the set point, as predicted.")
FIRMWARE = gauge(
    "steadytok_pace_firmware_duty", "Share of full speed that the firmware's throttling leaves the engine."
)
PAYS = gauge("steadytok_pace_pays", "1 where holding the set point leaves more speed than the firmware does, else 0.")
SET_POINT = gauge(
    "steadytok_pace_set_point_headroom_celsius", "Degrees below its limit at which the DIMM is to be held."
)
MEASURED = gauge("steadytok_pace_measured_headroom_celsius", "Degrees below its limit of the hottest DIMM, smoothed.")
ERROR = gauge("steadytok_pace_error_celsius", "Degrees that the hottest DIMM is cooler than wanted; below 0 too hot.")
INTEGRAL = gauge("steadytok_pace_integral_duty", "The integral's part of the share of time that may be worked.")
MODE = gauge(
    "steadytok_pace_mode_info", "Why the engine is held as it is: learns, holds, full, needs air, blind, lost."
)
METRICS = (
    GAIN,
    TIME_CONSTANT,
    IDLE,
    SPEED,
    PREDICTED,
    FIRMWARE,
    PAYS,
    SET_POINT,
    MEASURED,
    ERROR,
    INTEGRAL,
    MODE,
)


def report_plant(engine: str, plant: Plant, speed: float | None, benefit: Benefit, *, pays: bool) -> Iterator[Reading]:
    """Yields the thermal model of an engine and the benefit of pacing it, paced or not."""
    yield GAIN.sample(plant.gain, engine=engine)
    yield TIME_CONSTANT.sample(plant.time_constant, engine=engine)
    yield IDLE.sample(plant.idle, engine=engine)
    yield SPEED.sample(speed, engine=engine)
    yield PREDICTED.sample(benefit.paced_share, engine=engine)
    yield FIRMWARE.sample(benefit.throttled_share, engine=engine)
    yield PAYS.sample(float(pays), engine=engine)


def report_state(engine: str, state: ControllerState) -> Iterator[Reading]:
    """Yields the state of the controller that holds an engine."""
    yield MODE.sample(1.0, engine=engine, mode=state.mode, dimm=state.dimm)
    yield INTEGRAL.sample(state.integral, engine=engine)
    if state.headroom is not None and not state.blind:
        yield SET_POINT.sample(state.set_point, engine=engine)
        yield MEASURED.sample(state.headroom, engine=engine)
        yield ERROR.sample(state.error, engine=engine)
