"""The controller on simulated DIMMs: it holds, it settles, it never jumps, and without a reading it gives way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.pacing import controller
from agent.pacing.benefit import HYSTERESIS, compute_paced_share, compute_throttled_share, estimate_benefit
from agent.pacing.controller import ControlInputs, begin_state, step
from agent.pacing.settings import ControlSettings, check_settings
from agent.pacing.thermal_model import Plant
from tests.simulated_dimm import Dimm, Second, simulate

ALWAYS = ControlSettings(always=True)
HOUR = 3600
BAND = 2.5  # °C around the set point: the cool band, a sensor's step and the effect of noise on both


@st.composite
def dimms(draw: st.DrawFn) -> Dimm:
    """Draws a module that pacing can hold: 12 to 60 °C of load, a minute to seven, sensors of hwmon and IPMI."""
    gain, holds = draw(st.floats(12, 60)), draw(st.floats(0.25, 0.9))
    return Dimm(
        Plant(gain, draw(st.floats(60, 420)), idle=ALWAYS.margin + holds * gain),
        dead_time=draw(st.integers(2, 15)),
        period=draw(st.sampled_from([2, 10, 30])),
        quantum=draw(st.sampled_from([0.25, 1.0])),
        noise=draw(st.floats(0, 0.3)),
        headroom=4.0,
        seed=draw(st.integers(0, 1000)),
    )


def take_last_third(history: Sequence[Second]) -> list[Second]:
    """Returns the last third of a run, which is five time constants at least."""
    return list(history[-len(history) // 3 :])


def assert_settles(dimm: Dimm, first: float) -> None:
    """The headroom ends within the band, the duty at the plant's own, and both stay there."""
    history = list(simulate(dimm, ALWAYS, 2 * HOUR, state=begin_state(first)))
    last = take_last_third(history)
    needed = (dimm.plant.idle - ALWAYS.margin) / dimm.plant.gain

    assert all(abs(second.headroom - ALWAYS.margin) <= BAND for second in last)
    assert sum(second.duty for second in last) / len(last) == pytest.approx(needed, abs=0.05 + BAND / dimm.plant.gain)
    # No oscillation: from end to end the duty moves by less than the sensor's step would cause.
    swing = max(second.duty for second in last) - min(second.duty for second in last)
    assert swing <= 0.08 + 2 * dimm.quantum / dimm.plant.gain
    assert_within_limits(history, ALWAYS)


def assert_recovers(dimm: Dimm, fan: float, at: int, demand: float) -> None:
    """After a step of the air and a change of load the DIMM is held again; slew and bounds hold at all times."""

    def disturb(now: int, dimm: Dimm) -> None:
        if now == at:
            dimm.plant = dimm.plant._replace(gain=dimm.plant.gain * fan)

    def load(now: int) -> float:
        return demand if HOUR / 2 < now < HOUR else 1.0

    history = list(simulate(dimm, ALWAYS, 3 * HOUR, disturb=disturb, load=load))
    reachable = dimm.plant.headroom(1.0) < ALWAYS.margin < dimm.plant.headroom(ALWAYS.lowest)

    assert all(abs(second.headroom - ALWAYS.margin) <= BAND for second in take_last_third(history)) or not reachable
    assert_within_limits(history, ALWAYS)


def assert_within_limits(history: Sequence[Second], control_settings: ControlSettings) -> None:
    """Slew, duty and integral hold; the engine's duty may differ from the exact one by the least move."""
    for before, after in itertools.pairwise(history):
        assert abs(after.state.exact - before.state.exact) <= control_settings.slew * controller.STEP_SECONDS + 1e-9
        assert (
            abs(after.duty - before.duty) <= control_settings.slew * controller.STEP_SECONDS + 2 * controller.MIN_MOVE
        )
        assert control_settings.lowest - 1e-9 <= after.duty <= 1
        assert 0 <= after.state.integral <= 1


FIRST = st.floats(0.3, 0.95)
DISTURBED = {"fan": st.floats(0.7, 1.4), "at": st.integers(600, 2400), "demand": st.floats(0.3, 1.0)}


@settings(max_examples=4)
@given(dimm=dimms(), first=FIRST)
def test_it_settles_on_the_set_point_and_stays(dimm: Dimm, first: float) -> None:
    """Any module is held in the band without oscillation, through coarse and late sensors."""
    assert_settles(dimm, first)


@settings(max_examples=3)
@given(dimm=dimms(), **DISTURBED)
def test_a_fan_and_a_lighter_load_disturb_and_are_answered(dimm: Dimm, fan: float, at: int, demand: float) -> None:
    """The air changes by a third, the load goes and comes back, and the module is held again."""
    assert_recovers(dimm, fan, at, demand)


@pytest.mark.deep
@pytest.mark.timeout(200)
@settings(max_examples=80)
@given(dimm=dimms(), first=FIRST)
def test_it_settles_on_many_plants(dimm: Dimm, first: float) -> None:
    """The same, with more plants."""
    assert_settles(dimm, first)


@pytest.mark.deep
@pytest.mark.timeout(200)
@settings(max_examples=60)
@given(dimm=dimms(), **DISTURBED)
def test_many_disturbances_are_answered(dimm: Dimm, fan: float, at: int, demand: float) -> None:
    """The same, with more disturbances."""
    assert_recovers(dimm, fan, at, demand)


readings = st.one_of(st.none(), st.floats(-60, 120), st.just(float("nan")))
sample_lists = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("ABC"), readings, max_size=3),
        st.one_of(st.none(), st.floats(0, 1)),
        st.floats(-10, 100),
    ),
    max_size=60,
)


@given(samples=sample_lists, first=st.floats(0.1, 1.0), slew=st.floats(0.001, 0.1), pays=st.booleans())
def test_no_reading_makes_it_jump(
    samples: list[tuple[dict[str, Any], Any, float]], first: float, slew: float, pays: bool
) -> None:
    """Whatever sensors, loads and clocks do, duty and integral stay in bounds and move no faster than the slew."""
    terms = ControlSettings(slew=slew, always=pays)
    state = begin_state(first)
    for sensor_values, load, seconds in samples:
        headrooms = {dimm: value for dimm, value in sensor_values.items() if value is not None}
        before, state = state, step(state, ControlInputs(headrooms, load, plant=Plant(40, 100, 20)), terms, seconds)

        assert abs(state.exact - before.exact) <= slew * controller.MAX_STEP_SECONDS + 1e-9
        assert terms.lowest - 1e-9 <= state.duty <= 1
        assert 0 <= state.integral <= 1


def test_nothing_is_wound_up() -> None:
    """After an hour in which even the lowest duty was too hot, the air improves: the duty is back within minutes."""
    hot = Plant(40, 120, idle=-5)
    dimm = Dimm(hot, headroom=2)

    def disturb(now: int, dimm: Dimm) -> None:
        if now == HOUR:
            dimm.plant = Plant(40, 120, idle=27)

    history = list(simulate(dimm, ALWAYS, 2 * HOUR, disturb=disturb))
    assert history[HOUR - 1].duty == ALWAYS.lowest
    assert history[HOUR - 1].state.integral >= 0

    again = next(second.at for second in history[HOUR:] if second.duty >= 0.5)
    assert again - HOUR <= 8 * 60
    assert all(second.headroom > 0 for second in history[again:])


def test_an_engine_that_rests_winds_nothing_up_either() -> None:
    """An hour at a third of the load leaves the integral unchanged: the returning load causes no heat wave."""
    dimm = Dimm(Plant(40, 120, idle=27), headroom=5)

    def load(now: int) -> float:
        return 0.3 if HOUR < now < 2 * HOUR else 1.0

    history = list(simulate(dimm, ALWAYS, 3 * HOUR, load=load))

    assert history[2 * HOUR - 1].duty == 1.0
    assert history[2 * HOUR - 1].state.integral <= history[HOUR].state.integral + 0.02
    assert min(second.headroom for second in history[2 * HOUR :]) > 0


def test_within_the_cool_band_the_duty_is_not_raised() -> None:
    """A DIMM a little cooler than the set point is left alone; only beyond the band the duty rises."""
    terms = ControlSettings(always=True, cool_band=2.0)
    inside = outside = begin_state(0.5)
    for _ in range(60):
        inside = step(inside, ControlInputs({"A": terms.margin + 1.9}), terms, 5)
        outside = step(outside, ControlInputs({"A": terms.margin + 2.5}), terms, 5)

    assert inside.duty == 0.5
    assert outside.duty > 0.5


def test_once_it_throttles_the_firmware_is_given_room_to_let_go() -> None:
    """At the limit the set point goes below the release of the throttling, and returns after it."""
    state = step(begin_state(0.9), ControlInputs({"A": -0.5}), ControlSettings(), 5)
    assert (state.crossed, state.set_point) == (True, 6.0)

    state = step(state, ControlInputs({"A": 5.5}), ControlSettings(), 5)
    assert (state.crossed, state.set_point) == (False, 3.0)


STALE = ControlInputs({})


@pytest.mark.parametrize("first", [1.0, 0.8, 0.3])
def test_a_stale_sensor_fails_safe(first: float) -> None:
    """The duty waits for the patience, then falls to the safe one at the slew; a lower duty stays."""
    state = step(begin_state(first), ControlInputs({"A": ControlSettings().margin}), ControlSettings(), 5)
    held_duty = state.duty
    duties = []
    for _ in range(40):
        state = step(state, STALE, ControlSettings(), 5)
        duties.append(state.duty)

    assert duties[:6] == [held_duty] * 6
    assert duties == sorted(duties, reverse=True)
    assert duties[-1] == min(held_duty, ControlSettings().safe)
    assert state.mode == "blind"


def test_a_reading_that_comes_back_takes_over_where_it_stands() -> None:
    """From the safe duty the controller goes on at the slew, as if it had just begun."""
    state = step(begin_state(0.8), ControlInputs({"A": 3.0}), ControlSettings(), 5)
    for _ in range(40):
        state = step(state, STALE, ControlSettings(), 5)
    back = step(state, ControlInputs({"A": 30.0}), ControlSettings(), 5)

    assert state.duty == 0.5
    assert state.duty < back.duty <= 0.6 + controller.MIN_MOVE
    assert back.mode == "learns"


def test_the_neighbours_of_a_silent_dimm_are_not_believed() -> None:
    """When the hottest module's sensor dies its cooler neighbours do not raise the duty; one as hot counts."""
    state = step(begin_state(0.6), ControlInputs({"A": 2.0, "B": 15.0}), ControlSettings(), 5)

    assert step(state, ControlInputs({"B": 15.0}), ControlSettings(), 5).mode == "blind"
    assert step(state, ControlInputs({"B": 1.0}), ControlSettings(), 5).dimm == "B"
    assert step(state, ControlInputs({"A": 16.0, "B": 15.0}), ControlSettings(), 5).dimm == "B"
    assert step(state, ControlInputs({"A": 500.0, "B": 15.0}), ControlSettings(), 5).mode == "blind"


HOT = Plant(50, 120, idle=40)
COARSE = ((0.0, 0.5),)


@pytest.mark.parametrize(
    ("steps", "relief", "gained"),
    [(COARSE, 0.5, True), (COARSE, 1.0, False), (((0.0, 0.95), (15.0, 0.9)), 1.0, False)],
)
def test_it_paces_where_that_leaves_more_tokens_than_the_firmware(steps: Any, relief: float, gained: bool) -> None:
    """
    Against firmware that halves the speed for a quarter of the heat it is faster by 40 %; else it lets the engine run.

    The same DIMM, unpaced and with the controller: the tokens of an hour, after the learning.
    """
    terms = ControlSettings(throttle=steps)

    def load(now: int) -> float:
        return 0.2 if now % 1800 < 600 and now < 2 * HOUR else 1.0  # pauses, for learning

    def tokens(*, steered: bool) -> float:
        history = simulate(Dimm(HOT, headroom=30, relief=relief), terms, 4 * HOUR, load=load, is_steered=steered)
        return sum(second.tokens for second in history if second.at >= 3 * HOUR) / HOUR

    paced, unpaced = tokens(steered=True), tokens(steered=False)
    assert (paced > 1.4 * unpaced) is gained
    assert paced > (1 - HYSTERESIS) * unpaced


@pytest.mark.parametrize("duty", [0.5, 0.9])
def test_it_is_better_than_a_fixed_duty(duty: float) -> None:
    """A duty that is too low wastes tokens, one that is too high is throttled; the controller does neither."""
    terms = ControlSettings(throttle=COARSE, always=True)
    controlled = list(simulate(Dimm(HOT, headroom=5, relief=0.5), terms, 2 * HOUR))[HOUR:]
    fixed = list(
        simulate(
            Dimm(HOT, headroom=5, relief=0.5),
            ControlSettings(throttle=COARSE, always=True, slew=0.0),
            2 * HOUR,
            state=begin_state(duty),
        )
    )

    assert sum(second.tokens for second in controlled) > 1.02 * sum(second.tokens for second in fixed[HOUR:])
    assert min(second.headroom for second in controlled) > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"margin": 0.0}, "control.margin: expected 1 to 30 °C"),
        ({"fans": 5.0}, "control.fans: expected more than 6 °C below the limit"),
        ({"margin": 12.0}, "control.fans: expected more than 12 °C"),
        ({"release": -1.0}, "control.release"),
        ({"cool_band": 9.0}, "control.cool_band"),
        ({"slew": 1.0}, "control.slew"),
        ({"lowest": 0.6}, "expected 0.1 <= lowest <= safe < 1, found 0.6 and 0.5"),
        ({"patience": -1.0}, "control.patience"),
        ({"refresh": 0.9}, "control.refresh"),
        ({"throttle": ((0.0, 0.5), (5.0, 0.8))}, "control.throttle: expected"),
        ({"throttle": ()}, "control.throttle: expected"),
    ],
)
def test_terms_that_cannot_be_meant_are_told(changes: dict[str, Any], words: str) -> None:
    """Each fault has its sentence at the start."""
    assert any(words in fault for fault in check_settings(ControlSettings(**changes)))
    assert not list(check_settings(ControlSettings()))


@pytest.mark.parametrize(
    ("plant", "paced_share", "throttled_share"),
    [
        (Plant(30, 120, idle=40), 1.0, 1.0),  # it never gets to its limit
        (Plant(50, 120, idle=41), 0.76, 0.9 * 0.93),  # 4 °C above with the first step, which is not released
        (Plant(100, 120, idle=84), 0.81, 0.865 * 0.93),  # between two steps, around the middle of the hysteresis
        (Plant(50, 120, idle=10), 0.14, 0.6 * 0.93),  # the last step is not enough
        (Plant(50, 120, idle=-3), 0.0, 0.6 * 0.93),  # nothing is
    ],
)
def test_what_is_compared(plant: Plant, paced_share: float, throttled_share: float) -> None:
    """The duty at the set point against AMD's steps, with the doubled refresh above the limit."""
    terms = ControlSettings()

    assert compute_paced_share(plant, terms.margin) == pytest.approx(paced_share)
    assert compute_throttled_share(plant, terms) == pytest.approx(throttled_share)


def test_what_was_seen_counts_more_than_the_table() -> None:
    """An engine measured at half its speed under the firmware is paced, whatever the steps say."""
    plant = Plant(50, 120, idle=41)

    assert not estimate_benefit(plant, ControlSettings(), 3.0).pays()
    assert estimate_benefit(plant, ControlSettings(), 3.0, throttled_speed=0.5).pays()
    assert estimate_benefit(plant, ControlSettings(), 3.0, throttled_speed=0.78).pays(previous=True)
    assert not estimate_benefit(plant, ControlSettings(), 3.0, throttled_speed=0.75).pays(previous=False)
