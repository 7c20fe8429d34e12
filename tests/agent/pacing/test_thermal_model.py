"""The heat of a DIMM is learnt from an engine's ordinary work, and forgotten when it changes."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.pacing import thermal_model
from agent.pacing.controller import STEP_SECONDS
from agent.pacing.thermal_model import Plant, PlantStatistics, fit_plant, from_builtins, observe, to_builtins
from tests.simulated_dimm import Dimm

STEP = int(STEP_SECONDS)


def work(seed: int) -> list[float]:
    """Returns two hours of an engine that works and rests in turn, by the second."""
    dice = random.Random(seed)
    parts = ([dice.choice([0.0, 0.3, 1.0, 1.0])] * dice.randint(60, 900) for _ in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(parts), 7200))


def learn(dimm: Dimm, shares: list[float], learnt: PlantStatistics | None = None) -> PlantStatistics:
    learnt = learnt or PlantStatistics()
    for second, share in enumerate(shares):
        dimm.pass_second(share)
        if second % STEP == 0:
            learnt = observe(learnt, dimm.read(), share, STEP, heated=True, period=dimm.period)
    return learnt


@settings(max_examples=20)
@given(
    gain=st.floats(10, 60),
    slowness=st.floats(60, 400),
    idle=st.floats(20, 60),
    period=st.sampled_from([2, 10, 30]),
    quantum=st.sampled_from([0.25, 1.0]),
    seed=st.integers(0, 100),
)
def test_it_finds_the_plant_through_coarse_and_late_sensors(
    gain: float, slowness: float, idle: float, period: float, quantum: float, seed: int
) -> None:
    """Gain and idle headroom are found to a tenth; the time constant within its grid and the sensor's delay."""
    plant = fit_plant(
        learn(Dimm(Plant(gain, slowness, idle), 5, period, quantum, headroom=idle, seed=seed), work(seed))
    )

    assert plant is not None
    assert plant.gain == pytest.approx(gain, rel=0.1, abs=1)
    assert plant.idle == pytest.approx(idle, abs=0.05 * gain + 1)
    assert slowness / 1.35 <= plant.time_constant <= 1.35 * (slowness + 15 + period)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_one_load_is_no_experiment(share: float) -> None:
    """A constant load says nothing about the heat of an engine, however long it lasts."""
    assert fit_plant(learn(Dimm(Plant(40, 120, 30), headroom=20), [share] * 7200)) is None


def test_what_is_known_outlives_hours_at_one_load() -> None:
    """The bins of other loads are kept."""
    dimm = Dimm(Plant(40, 120, 30), headroom=30)
    learnt = learn(dimm, [1.0] * 4 * 3600, learn(dimm, work(1)))
    plant = fit_plant(learnt)

    assert plant is not None
    assert plant.gain == pytest.approx(40, rel=0.1)


def test_another_fan_is_noticed_and_learnt_anew() -> None:
    """When the fit has been wrong by degrees for minutes the old readings hardly count; the new plant is found."""
    dimm = Dimm(Plant(40, 120, 30), headroom=30)
    learnt = learn(dimm, work(1))
    dimm.plant = Plant(25, 90, 38)
    plant = fit_plant(learn(dimm, work(2), learnt))

    assert plant is not None
    assert plant.gain == pytest.approx(25, rel=0.1)
    assert plant.idle == pytest.approx(38, abs=1.5)


def test_throttled_readings_teach_nothing() -> None:
    """Above the limit work and heat are not in proportion."""
    learnt = learn(Dimm(Plant(40, 120, 30), headroom=30), work(1))
    after = learnt
    for _ in range(1000):
        after = observe(after, -10.0, 1.0, STEP, heated=False)

    assert fit_plant(after) == fit_plant(learnt)


def test_after_a_gap_it_waits_until_the_past_no_longer_matters() -> None:
    """The effects of unseen work would be taken for those of the present load."""
    learnt = learn(Dimm(Plant(40, 120, 30), headroom=30), work(1))
    plant = fit_plant(learnt)
    after = observe(learnt, 5.0, 0.0, thermal_model.GAP_SECONDS + 1, heated=True)
    after = observe(after, 5.5, 0.0, STEP, heated=True)

    assert (after.weights == learnt.weights).all()
    assert fit_plant(observe(observe(after, None, None, STEP, heated=True), 5.0, 0.0, STEP, heated=True)) == plant


def test_it_is_kept_over_restarts_and_is_small() -> None:
    """Stored statistics give the same plant, in two dozen kilobytes; foreign data are refused."""
    learnt = learn(Dimm(Plant(40, 120, 30), headroom=30), work(1))
    text = json.dumps(to_builtins(learnt))
    before, after = fit_plant(learnt), fit_plant(from_builtins(json.loads(text)))

    assert after == pytest.approx(before, rel=0.01)
    assert len(text) < 24_000
    for strange in ({}, {"weights": [[1.0]], "means": [[[1.0]]]}, {"weights": "x", "means": []}):
        with pytest.raises(ValueError, match=r"Object|Expected|format of another version"):
            from_builtins(strange)
