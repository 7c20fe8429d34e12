"""The expected tokens per second, and the observations it is learnt from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.baseline import DAY_OBSERVATIONS, MIN_OBSERVATIONS, Baseline, BaselineKey
from collectors import Reading, counter, gauge
from rules.history.history import History

TOKENS = counter("steadytok_engine_generated_tokens_total", "Tokens.")
SECONDS = counter("steadytok_engine_decode_seconds_total", "Seconds.")
RUNNING = gauge("steadytok_engine_requests_running", "Running.")
DUTY = gauge("steadytok_engine_duty", "Duty.")
HEADROOM = gauge("steadytok_dimm_headroom_celsius", "Headroom.")
KEY = BaselineKey("r1")


def build_history(*increments: tuple[float, float], more: tuple[Reading, ...] = (), running: float = 1.0) -> History:
    """Records a minute of an engine whose counters grow by (tokens, decode seconds) each second."""
    remembered = History(3_600_000)
    tokens = seconds = 0.0
    for second, (more_tokens, more_seconds) in enumerate(increments):
        tokens += more_tokens
        seconds += more_seconds
        readings = [
            TOKENS.sample(tokens, engine="r1"),
            SECONDS.sample(seconds, engine="r1"),
            RUNNING.sample(running, engine="r1"),
            *more,
        ]
        remembered.record("engine", second * 1000, [reading for reading in readings if reading is not None])
    return remembered


def test_speed_is_tokens_per_decode_second() -> None:
    """An engine that decodes for a tenth of the time at 200 tokens/s runs at 200 tokens/s, not at 20."""
    speeds = Baseline().query_speeds(build_history(*[(20.0, 0.1)] * 60), 59_000)

    assert speeds == {"r1": pytest.approx(200.0)}


def test_an_idle_engine_has_no_speed() -> None:
    """Without decoded tokens there is no speed, rather than 0."""
    assert Baseline().query_speeds(build_history(*[(0.0, 0.0)] * 60), 59_000) == {}


def test_without_decode_seconds_only_a_busy_engine_has_a_speed() -> None:
    """An engine that does not count decode seconds is measured only while it was never idle."""

    def only_tokens(running: float) -> dict[str, float]:
        remembered = History(3_600_000)
        for second in range(60):
            samples = [TOKENS.sample(second * 30.0, engine="r2"), RUNNING.sample(running, engine="r2")]
            remembered.record("engine", second * 1000, [sample for sample in samples if sample is not None])
        return Baseline().query_speeds(remembered, 59_000)

    assert only_tokens(2.0) == {"r2": pytest.approx(30.0)}
    assert only_tokens(0.0) == {}


def test_a_baseline_needs_its_observations() -> None:
    """Without enough observations there is no baseline, and the progress shows how many there are."""
    baseline = Baseline()
    for _ in range(MIN_OBSERVATIONS - 1):
        baseline.observe(KEY, 100.0)
    assert baseline.expected_speed("r1") is None
    assert baseline.learning_progress("r1") == pytest.approx(1 - 1 / MIN_OBSERVATIONS)

    baseline.observe(KEY, 100.0)
    assert baseline.expected_speed("r1") == pytest.approx(100.0, rel=0.01)


@given(st.lists(st.floats(0.1, 10_000), min_size=MIN_OBSERVATIONS, max_size=300))
def test_it_is_the_90th_percentile(speeds: list[float]) -> None:
    """At least nine in ten observations are at or below it, to the bin of one percent."""
    baseline = Baseline()
    for speed in speeds:
        baseline.observe(KEY, speed)
    value = baseline.expected_speed("r1")

    assert value is not None
    assert sum(speed <= value * 1.01 for speed in speeds) >= 0.9 * len(speeds)
    assert sum(speed < value * 0.99 for speed in speeds) <= 0.9 * len(speeds)


@pytest.mark.parametrize(
    ("more", "learns"),
    [
        ((), True),
        ((HEADROOM.sample(30.0, dimm="a"),), True),
        ((HEADROOM.sample(30.0, dimm="a"), HEADROOM.sample(4.0, dimm="b")), False),
        ((DUTY.sample(0.5, engine="r1"),), False),
        ((DUTY.sample(0.5, engine="other"),), True),
    ],
)
def test_it_learns_only_from_unhurt_engines(more: tuple[Reading, ...], learns: bool) -> None:
    """A hot DIMM stops all learning; a paced engine stops only its own."""
    baseline = Baseline()
    baseline.learn(build_history(*[(20.0, 0.1)] * 60, more=more), 59_000)

    assert (baseline.learning_progress("r1") > 0) is learns


def test_each_batch_has_its_own() -> None:
    """An engine with eight concurrent requests is not compared with its speed with one."""
    baseline = Baseline()
    for _ in range(MIN_OBSERVATIONS):
        baseline.learn(build_history(*[(20.0, 0.1)] * 60, running=1.0), 59_000)
    assert baseline.expected_speed("r1") == pytest.approx(200.0, rel=0.01)

    baseline.learn(build_history(*[(80.0, 0.8)] * 60, running=11.0), 59_000)
    assert baseline.expected_speed("r1") is None
    assert baseline.current_key("r1").batch == "8"


def test_throttling_stops_the_learning() -> None:
    """While cores report throttling, the speed is not a normal one."""
    events = counter("steadytok_thermal_throttle_core_events_total", "Events.")
    remembered = build_history(*[(20.0, 0.1)] * 60)
    for second in range(60):
        sample = events.sample(second * 1.0, package="0", core="0")
        assert sample is not None
        remembered.record("thermal_throttle", second * 1000, [sample])
    baseline = Baseline()
    baseline.learn(remembered, 59_000)

    assert baseline.learning_progress("r1") == 0


def test_it_survives_a_restart() -> None:
    """A stored baseline is restored, for the same engine and model only."""
    baseline = Baseline()
    for speed in range(100, 100 + MIN_OBSERVATIONS):
        baseline.observe(BaselineKey("r1", "model-a"), float(speed))
    again = Baseline(baseline.dump())
    again.models["r1"] = "model-a"
    other = Baseline(baseline.dump())
    other.models["r1"] = "model-b"
    baseline.models["r1"] = "model-a"

    assert again.expected_speed("r1") == baseline.expected_speed("r1") is not None
    assert other.expected_speed("r1") is None


@pytest.mark.parametrize(
    "stored", ["", "{", "[]", '{"version":1,"bins":{"a":{"x":1}}}', '{"version":1,"bins":{"a":3}}']
)
def test_a_damaged_store_is_learnt_anew(stored: str) -> None:
    """An unreadable file is logged and ignored; the agent still starts."""
    assert Baseline(stored).expected_speed("r1") is None


def test_it_follows_a_changed_host() -> None:
    """After a day's observations old ones count half, so that a slower host is not called slow for ever."""
    baseline = Baseline()
    for _ in range(DAY_OBSERVATIONS):
        baseline.observe(KEY, 100.0)
    for _ in range(6 * DAY_OBSERVATIONS):
        baseline.observe(KEY, 50.0)

    assert baseline.expected_speed("r1") == pytest.approx(50.0, rel=0.02)
