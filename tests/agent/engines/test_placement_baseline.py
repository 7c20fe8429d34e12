"""The normal placement of an engine's memory: how it is learnt, how drift is measured, and that a restart keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import configuration
from agent.config.loader import ConfigError
from agent.engines.baseline import MIN_OBSERVATIONS as ENOUGH_SPEEDS
from agent.engines.baseline import Baseline
from agent.engines.placement_baseline import HOUR_OBSERVATIONS, MIN_OBSERVATIONS, PlacementBaseline, ProcessKey
from agent.sampling import binding
from agent.selfmetrics import definitions
from agent.selfmetrics import readings as own
from collectors import Reading, counter, gauge
from rules.history.history import History
from rules.rulefile import load_rules

TOKENS = counter("steadytok_engine_generated_tokens_total", "Tokens.")
SECONDS = counter("steadytok_engine_decode_seconds_total", "Seconds.")
RUNNING = gauge("steadytok_engine_requests_running", "Running.")
SHARE = gauge("steadytok_process_node_share_ratio", "Share.")
R1 = ProcessKey("r1", "", "0")
MINUTE = range(60)
PLACEMENT = Path(__file__).parents[3] / "rules" / "builtin" / "placement.yml"


def build_history(shares: dict[str, dict[str, float]], speed: float = 100.0, more: tuple[Reading, ...] = ()) -> History:
    """Records a minute of one engine at that speed, with its ranks' memory by node."""
    remembered = History(3_600_000)
    for second in MINUTE:
        readings = [
            TOKENS.sample(speed * second, engine="r1"),
            SECONDS.sample(second, engine="r1"),
            RUNNING.sample(1.0, engine="r1"),
            *more,
        ]
        remembered.record("engine", second * 1000, [reading for reading in readings if reading is not None])
    samples = [
        SHARE.sample(share, engine="r1", rank=rank, node=node)
        for rank, of_node in shares.items()
        for node, share in of_node.items()
    ]
    remembered.record("process", 58_000, [reading for reading in samples if reading is not None])
    return remembered


def train_baseline(
    shares: dict[str, dict[str, float]], times: int = MIN_OBSERVATIONS, speed: float = 100.0
) -> Baseline:
    baseline = Baseline()
    for _ in range(times):
        baseline.learn(build_history(shares, speed), 59_000)
    return baseline


def list_drifts(baseline: Baseline, shares: dict[str, dict[str, float]]) -> dict[str, float]:
    return {rank: drift for _, rank, drift in baseline.iter_drifts(build_history(shares), 59_000)}


HOME = {"0": {"0": 1.0, "1": 0.0}, "1": {"0": 0.0, "1": 1.0}}


def test_drift_is_the_share_of_pages_that_are_elsewhere() -> None:
    """Thirty of a hundred pages on another node than before are a drift of 0.3, of that rank alone."""
    baseline = train_baseline(HOME)

    moved = {"0": {"0": 0.7, "1": 0.3}, "1": {"0": 0.0, "1": 1.0}}
    assert list_drifts(baseline, moved) == {"0": pytest.approx(0.3), "1": pytest.approx(0.0)}
    readings = own.read_engines(baseline, build_history(moved), 59_000, [], None, {})
    values = {
        sample.labels: sample.value for sample in readings if sample and sample.metric is definitions.PLACEMENT_DRIFT
    }
    assert values[(("engine", "r1"), ("rank", "0"))] == pytest.approx(0.3)


def test_nothing_is_told_before_enough_is_learnt() -> None:
    """Drift needs as many observations as a baseline; a new process has none."""
    assert list_drifts(train_baseline(HOME, MIN_OBSERVATIONS - 1), HOME) == {}
    assert list_drifts(train_baseline(HOME), {"7": {"0": 1.0}}) == {}


def test_a_slow_engine_teaches_no_placement() -> None:
    """Memory that has drifted and costs speed never becomes normal, however long it lasts."""
    baseline = train_baseline(HOME)
    assert MIN_OBSERVATIONS >= ENOUGH_SPEEDS
    away = {"0": {"0": 0.0, "1": 1.0}, "1": {"0": 0.0, "1": 1.0}}
    for _ in range(200):
        baseline.learn(build_history(away, speed=60.0), 59_000)

    assert list_drifts(baseline, away) == {"0": pytest.approx(1.0), "1": pytest.approx(0.0)}


def test_memory_that_moved_at_no_cost_is_normal_in_time() -> None:
    """
    A placement that an operator changed without loss of speed becomes normal: after an hour most of the drift is gone.
    """
    baseline = train_baseline(HOME)
    away = {"0": {"0": 0.0, "1": 1.0}}
    before = list_drifts(baseline, away)["0"]
    for _ in range(HOUR_OBSERVATIONS):
        baseline.learn(build_history(away), 59_000)

    assert before == pytest.approx(1.0)
    assert list_drifts(baseline, away)["0"] < 0.4


def test_a_paced_or_hurt_engine_teaches_nothing() -> None:
    """While the agent paces, or an alert reports a disturbed host, no placement is learnt either."""
    duty = gauge("steadytok_engine_duty", "Duty.").sample(0.5, engine="r1")
    alert = gauge("ALERTS", "Alerts.").sample(1.0, alertname="PlacementDrift", alertstate="firing")
    baseline = Baseline()
    for _ in range(2 * MIN_OBSERVATIONS):
        baseline.learn(build_history(HOME, more=(duty,)), 59_000)
        baseline.learn(build_history(HOME, more=(alert,)), 59_000)

    assert list_drifts(baseline, HOME) == {}


def test_a_restart_keeps_what_was_learnt() -> None:
    """Speeds and placements are restored; a file of a version without placements is read too."""
    baseline = train_baseline(HOME)
    moved = {"0": {"0": 0.4, "1": 0.6}}

    restored = Baseline(baseline.dump())
    assert list_drifts(restored, moved) == list_drifts(baseline, moved) == {"0": pytest.approx(0.6)}
    older = Baseline('{"version":1,"bins":{"r1\\u001f\\u001f1":{"463":100}}}')
    assert older.expected_speed("r1") == pytest.approx(100, rel=0.02)
    assert list_drifts(older, moved) == {}


@pytest.mark.parametrize(
    "learnt", ['{"seen":0,"shares":{}}', '{"seen":99999,"shares":{"0":1}}', '{"seen":70,"shares":{"0":1e300}}']
)
def test_what_cannot_have_been_learnt_is_forgotten(learnt: str) -> None:
    """A stored placement that is out of bounds is learnt anew, without effect on the speeds."""
    text = f'{{"version":1,"bins":{{"r1\\u001f\\u001f1":{{"463":100}}}},"placements":{{"r1\\u001f\\u001f0":{learnt}}}}}'

    baseline = Baseline(text)
    assert baseline.expected_speed("r1") is not None
    assert list_drifts(baseline, HOME) == {}


@given(
    st.lists(
        st.lists(st.floats(0.001, 1.0), min_size=3, max_size=3),
        min_size=MIN_OBSERVATIONS,
        max_size=MIN_OBSERVATIONS + 5,
    )
)
def test_drift_is_a_share(placements: list[list[float]]) -> None:
    """Whatever was learnt, drift is from 0 to 1, and the mean has no drift from itself."""
    placement = PlacementBaseline()
    for weights in placements:
        placement.observe(R1, {str(node): weight / sum(weights) for node, weight in enumerate(weights)})

    for shares in ({"0": 1.0}, {"5": 1.0}, {"0": 0.5, "2": 0.5}):
        drift = placement.measure_drift(R1, shares)
        assert drift is not None
        assert 0 <= drift <= 1 + 1e-9
    assert placement.measure_drift(R1, placement.dump()["r1\x1f\x1f0"].shares) == 0


def write_config(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "steadytok.yml"
    path.write_text(text)
    return path


def test_engines_of_the_configuration_are_looked_for_as_processes(tmp_path: Path) -> None:
    """`engines:` and the canary are found by their URLs; `collectors.process.engines` overrides them."""
    text = """
engines: [{name: r1, url: "http://127.0.0.1:8000"}, {name: r2, url: "http://127.0.0.1:8001"}]
collectors: {process: {interval: 30s, pages: 1000, engines: [{name: r2, command: "serve.py"}]}}
"""
    settings, modules = configuration.load_configuration(write_config(text, tmp_path))
    (bound,) = [
        bound for bound in binding.bind_collectors(settings, modules, "http://127.0.0.1:9") if bound.name == "process"
    ]

    names = [(target.name, target.command or target.url) for target in bound.config.engines]
    assert names[0] == ("r2", "serve.py")
    assert ("r1", "http://127.0.0.1:8000") in names
    assert ("canary", "http://127.0.0.1:9") in names
    assert (bound.interval, bound.config.pages, bound.isolated) == (30.0, 1000, True)


def test_what_finds_no_process_is_a_fault_of_the_file(tmp_path: Path) -> None:
    """An empty target, an invalid pattern and a sample too small are reported together, each with its key."""
    text = 'collectors: {process: {pages: 3, engines: [{name: a}, {name: b, command: "("}]}}'

    with pytest.raises(ConfigError) as caught:
        configuration.load_configuration(write_config(text, tmp_path))
    messages = [message.split("yml: ")[1] for message in caught.value.messages]
    assert messages[0] == "$.collectors.process.engines[0]: expected one of the keys url, command and pid"
    assert messages[1].startswith("$.collectors.process.engines[1]: command: expected a regular expression, found '('")
    assert messages[2] == "$.collectors.process: pages: expected 100 to 65536, found 3"


def test_a_placement_that_cannot_be_read_is_lost_not_mended() -> None:
    """While the collector is silent, an alert on drift is lost; a fresh empty result resolves it."""
    (rule,) = [
        state for state in load_rules([PLACEMENT]).rules if state.name == "steadytok:process_placement_drift:percent"
    ]
    baseline = train_baseline(HOME)
    remembered = build_history({"0": {"0": 0.4, "1": 0.6}})
    own.declare_derived(remembered, baseline)

    def tell(now_ms: int) -> None:
        readings = own.read_engines(baseline, remembered, now_ms, ["r1"], None, {})
        remembered.record("agent", now_ms, [reading for reading in readings if reading is not None])

    tell(59_000)
    assert remembered.get_value("steadytok_process_placement_drift", engine="r1", rank="0") == pytest.approx(0.6)
    assert rule.query.is_fresh(remembered, 59_000)

    remembered.silence("process", 59_500)
    tell(60_000)
    assert remembered.get_value("steadytok_process_placement_drift", engine="r1", rank="0") is None
    assert not rule.query.is_fresh(remembered, 60_000)
