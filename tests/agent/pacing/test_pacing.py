"""The controller in the agent: its queries to History, the pace action, and the sentences that people read."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from agent.actions import Moment, RefusedError, Task
from agent.actions._controller import describe_state
from agent.commands.remedies import _format_entry
from agent.config.loader import ConfigError, parse
from agent.pacing import controller as control
from agent.pacing import metrics
from agent.pacing.benefit import Benefit
from agent.pacing.learner import PlantLearner
from agent.pacing.settings import ControlSettings
from agent.pacing.thermal_model import Plant
from agent.remediation import catalog, plugins
from agent.remediation.model import AuditEntry
from collectors import Reading, gauge
from rules import promql
from rules.history.history import History
from tests.agent.actions.test_actions import FakeContext
from tests.simulated_dimm import Dimm

PACE: Any = plugins.load_actions()["pace"]
ENGINES = {"r1": "http://127.0.0.1:1"}
HEADROOM = gauge("steadytok_dimm_headroom_celsius", "Headroom.")
RUNNING = gauge("steadytok_engine_requests_running", "Running.")
DUTY = gauge("steadytok_engine_duty", "Duty.")
TOKENS = gauge("steadytok_engine_tokens_per_second", "Tokens per second.")
BASELINE = gauge("steadytok_engine_baseline_tokens_per_second", "Baseline.")
INTERVAL = gauge("steadytok_collector_interval_seconds", "Interval.")
SECOND = 1000


class HistoryBench:
    """A History in which a simulated host is recorded each second."""

    def __init__(self) -> None:
        self.history = History(3_600_000)
        self.now_ms = 1_000_000

    def record(self, group: str, *readings: Reading | Iterable[Reading]) -> None:
        flat = [each for one in readings for each in (one if isinstance(one, list) else [one])]
        self.history.record(group, self.now_ms, [reading for reading in flat if reading is not None])  # type: ignore[misc]  # flat by now

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        rows = promql.compile(expr).evaluate_at(self.history, self.now_ms)
        return [(dict(labels), value) for labels, value in rows]


def make_task(
    duty: float = 0.7, remedy: str = "cool", control_settings: ControlSettings | None = None, **control: Any
) -> Task:
    config = PACE.Config(duty=duty, control=control_settings or ControlSettings(**control))
    return Task(remedy, {"engine": "r1"}, config, {"alertname": "DimmHot"}, ENGINES)


def make_fixed_task(duty: float, remedy: str = "other") -> Task:
    return Task(remedy, {"engine": "r1"}, PACE.Config(duty=duty), {"alertname": "A"}, ENGINES)


def drive(
    seconds: int, work: Callable[[int], float], dimm: Dimm, *, steered: bool
) -> tuple[HistoryBench, PlantLearner, list[float]]:
    """Runs a host by the second: it works, heats, is recorded and learnt, and is steered if `steered`."""
    desk, memory, duty, duties = HistoryBench(), None, 1.0, []
    learner = PlantLearner(None, dict)
    if steered:
        duty = 0.7
    for second in range(seconds):
        desk.now_ms += SECOND
        share = work(second) * duty
        dimm.pass_second(share)
        running = [RUNNING.sample(2.0 if work(second) else 0.0, engine="r1"), DUTY.sample(duty, engine="r1")]
        desk.record("engine", *running)
        desk.record("hwmon", HEADROOM.sample(dimm.read(), dimm="A", source="hwmon"))
        desk.record("agent", INTERVAL.sample(dimm.period, collector="hwmon"), *learner.readings())
        if second % 5 == 0:
            learner.observe(desk.history, desk.now_ms)
        if steered:
            memory, duty = PACE.steer(make_task(always=True), memory, Moment(desk.now_ms, duty, False, desk.query))
        duties.append(duty)
    return desk, learner, duties


def work(second: int) -> float:
    """Returns the load: five minutes of work and four of rest."""
    return 1.0 if second % 540 < 300 else 0.0


def test_it_learns_from_history_without_pacing() -> None:
    """The first day exposes the heat of an engine and the benefit of pacing it as metrics; a restart keeps them."""
    dimm = Dimm(Plant(50, 100, idle=43), headroom=43)
    desk, learner, _ = drive(3600, work, dimm, steered=False)
    values = {name: desk.history.get_value(name, engine="r1") for name in (metric.name for metric in metrics.METRICS)}

    assert values["steadytok_pace_gain_celsius"] == pytest.approx(50, rel=0.1)
    assert values["steadytok_pace_idle_headroom_celsius"] == pytest.approx(43, abs=2)
    assert values["steadytok_pace_predicted_duty"] == pytest.approx(0.8, abs=0.05)
    assert values["steadytok_pace_pays"] in (0.0, 1.0)
    again = PlantLearner(learner.to_json(), dict)
    again.observe(desk.history, desk.now_ms)
    assert {reading.metric.name for reading in again.readings() if reading is not None} >= {metrics.GAIN.name}


def test_an_engine_that_has_left_is_not_told_of() -> None:
    """An engine silent for a minute is still exposed, since its act goes on; after a quarter of an hour it is not."""
    desk, learner, _ = drive(2400, work, Dimm(Plant(50, 100, idle=43), headroom=43), steered=False)
    desk.history.silence("engine", desk.now_ms + 1)
    learner.observe(desk.history, desk.now_ms + 60 * SECOND)
    assert list(learner.readings())

    learner.observe(desk.history, desk.now_ms + 1000 * SECOND)
    assert list(learner.readings()) == []


def test_what_was_stored_by_nobody_is_learnt_anew() -> None:
    """A damaged file is logged and ignored."""
    for text in ("", "{", '{"version": 1, "engines": {"r1": {"learnt": {}, "left": 0, "speed": 0}}}', "[]"):
        assert list(PlantLearner(text, dict).readings()) == []


def test_steer_holds_a_dimm_through_history() -> None:
    """With its PromQL inputs the DIMM ends at the set point, at the plant's duty."""
    dimm = Dimm(Plant(50, 100, idle=33), headroom=4)
    _, _, duties = drive(2400, lambda _: 1.0, dimm, steered=True)

    assert dimm.headroom == pytest.approx(3, abs=1.5)
    assert duties[-1] == pytest.approx(0.6, abs=0.04)
    changes = sum(1 for before, after in itertools.pairwise(duties) if before != after)
    assert changes < 100  # each is a line of the journal, and a request


def test_what_the_engine_had_under_the_firmware_is_measured() -> None:
    """Its speed over its baseline counts while the DIMM is at its limit, and not while the engine is paced."""
    desk, learner = HistoryBench(), PlantLearner(None, dict)
    for second in range(0, 400, 5):
        desk.now_ms += 5 * SECOND
        duty = 1.0 if second < 200 else 0.5
        desk.record("engine", RUNNING.sample(1.0, engine="r1"), DUTY.sample(duty, engine="r1"))
        desk.record("hwmon", HEADROOM.sample(-1.0, dimm="A", source="hwmon"))
        speed = 40.0 if duty == 1.0 else 90.0
        desk.record("agent", TOKENS.sample(speed, engine="r1"), BASELINE.sample(100.0, engine="r1"))
        learner.observe(desk.history, desk.now_ms)

    stored = json.loads(learner.to_json())["engines"]
    assert stored == {}  # nothing is learnt of the plant above the limit
    assert learner._engines["r1"].throttled_speed == pytest.approx(0.4)


def make_moment(desk: HistoryBench, held_duty: float, *, lost: bool = False, beside: tuple[Task, ...] = ()) -> Moment:
    return Moment(desk.now_ms, held_duty, lost, desk.query, beside)


def test_a_lost_alert_ramps_a_controller_to_its_safe_duty() -> None:
    """It begins only when the alert's evidence is lost, goes by steps, and ends when the evidence is back."""
    desk = HistoryBench()
    memory, duty = None, 0.9
    for _ in range(12):
        desk.now_ms += 5 * SECOND
        memory, duty = PACE.steer(make_task(safe=0.6), memory, make_moment(desk, duty, lost=True))
    assert duty == 0.6
    assert memory.reason == "lost"
    assert "the alert's evidence is lost" in memory.says

    desk.now_ms += 5 * SECOND
    desk.record("hwmon", HEADROOM.sample(30.0, dimm="A", source="hwmon"))
    memory, duty = PACE.steer(make_task(safe=0.6), memory, make_moment(desk, duty))
    assert memory.reason == "learns"
    assert 0.6 < duty <= 0.7


def test_between_two_looks_nothing_is_asked() -> None:
    """A tick comes each second, a step each five: in between steer returns the same."""
    desk, queries = HistoryBench(), []

    def ask(expr: str) -> list[tuple[dict[str, str], float]]:
        queries.append(expr)
        return desk.query(expr)

    memory, first = PACE.steer(make_task(), None, Moment(desk.now_ms, 0.7, False, ask))
    query_count = len(queries)
    for tick in range(1, 5):
        memory, duty = PACE.steer(make_task(), memory, Moment(desk.now_ms + tick * SECOND, first, False, ask))
        assert duty == first
    assert len(queries) == query_count


def test_of_several_claims_the_lowest_duty_is_held() -> None:
    """A fixed duty beside a controller is its ceiling, and the other way round."""
    desk = HistoryBench()
    desk.record("hwmon", HEADROOM.sample(40.0, dimm="A", source="hwmon"))
    memory, duty = None, 0.7
    for _ in range(40):
        desk.now_ms += 5 * SECOND
        desk.record("hwmon", HEADROOM.sample(40.0, dimm="A", source="hwmon"))
        memory, duty = PACE.steer(make_task(), memory, make_moment(desk, duty, beside=(make_fixed_task(0.8),)))
    assert duty == 0.8
    assert PACE.steer(make_fixed_task(0.8), memory, make_moment(desk, duty, beside=(make_task(),)))[1] == 0.8
    assert PACE.steer(make_fixed_task(0.3), memory, make_moment(desk, duty, beside=(make_task(),)))[1] == 0.3


PREDICTION = {"steadytok_pace_predicted_duty": 0.31, "steadytok_pace_firmware_duty": 0.74, "steadytok_pace_pays": 0.0}


def test_a_plan_refuses_where_it_would_not_pay() -> None:
    """The refusal has the numbers; `always` overrides it, and without a prediction there is none."""
    with pytest.raises(RefusedError, match=r"pacing would not help .*: .* leave 31% of its speed, .* leaves 74%"):
        PACE.plan(make_task(), FakeContext(values=PREDICTION))

    assert PACE.plan(make_task(always=True), FakeContext(values=PREDICTION)).wanted == 0.31
    assert PACE.plan(make_task(), FakeContext(values={**PREDICTION, "steadytok_pace_pays": 1.0})).wanted == 0.31
    assert PACE.plan(make_task(0.6), FakeContext()).wanted == 0.6
    assert PACE.plan(make_fixed_task(0.6), FakeContext(values=PREDICTION)).wanted == 0.6


STATE = control.ControllerState(0.62, 0.62, 0.6, "holds", "P1-DIMMA1", 2.8, 3.0, -0.2)
PLANT_AND_BENEFIT = {"plant": Plant(50, 120, idle=41), "benefit": Benefit(0.76, 0.55)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            PLANT_AND_BENEFIT,
            "engine r1 at a duty of 0.62: P1-DIMMA1 is 2.8 °C below its limit, wanted 3 below; unpaced it would end "
            "9 °C above it, with 55% left",
        ),
        ({"mode": "full", "duty": 1.0}, "engine r1 at full speed: P1-DIMMA1 is 2.8 °C below its limit, wanted 3 below"),
        (
            {"mode": "learns", "headroom": -1.0},
            "engine r1 at a duty of 0.62: P1-DIMMA1 is 1.0 °C above its limit, wanted 3 below; how much it heats is "
            "not learnt yet",
        ),
        (
            {"mode": "needs air", "duty": 1.0, "benefit": Benefit(0.31, 0.74)},
            "engine r1 needs air and is not paced: holding P1-DIMMA1 3 °C below its limit would leave 31% of its "
            "speed, the firmware's throttling leaves 74%",
        ),
        (
            {"mode": "blind", "blind": 12.0},
            "engine r1 at a duty of 0.62: no reading of P1-DIMMA1 for 12 s, so it goes to the safe duty of 0.5 unless "
            "that changes",
        ),
        (
            {"mode": "lost", "duty": 0.4},
            "engine r1 at a duty of 0.40: the alert's evidence is lost, so it stays as it is",
        ),
    ],
)
def test_the_duty_and_its_reason_are_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    """The audit, `remedies list` and the live table show the same sentence."""
    state = control.replace(STATE, **changes)

    assert describe_state(state, "engine r1", ControlSettings()) == sentence


def load_control_settings(parameters: dict[str, Any]) -> ControlSettings | None:
    """Loads the control settings of a remedy with these parameters; ConfigError if they are wrong."""
    remedy = {"name": "hot", "match": ['alertname="DimmHot"'], "action": "pace", "parameters": parameters}
    engines = [{"name": "r1", "url": "http://127.0.0.1:1"}]
    settings = {"engines": engines, "remedies": [{**remedy, "target": {"engine": "r1"}}]}
    remedies = catalog.bind_remedies(parse({**settings, "remediation": {"builtin": False}}, "f", {}), "f")
    action, again = catalog.from_undo_recipe("hot", remedies[0].undo_recipe, {})
    assert (action.plan, again.own.control) == (PACE.plan, remedies[0].task.own.control)
    return catalog.collect_pacing_settings(remedies).get("r1")


def test_the_terms_are_the_operators() -> None:
    """The controller has the settings of the file, also after a restart; without `control` there is no controller."""
    assert load_control_settings({"control": {"margin": 2, "throttle": [[0, 0.5]]}}) == ControlSettings(
        margin=2.0, throttle=((0.0, 0.5),)
    )
    assert load_control_settings({"control": {}}) == ControlSettings()
    assert load_control_settings({"duty": 0.5}) is None


@pytest.mark.parametrize(
    ("control", "words"),
    [
        ({"margn": 3}, "unknown field `margn`"),
        ({"margin": "warm"}, "Expected `float`, got `str`"),
        (
            {"fans": 4},
            "control.fans: expected more than 6 °C below the limit, where the set point may lie, and at most 60",
        ),
    ],
)
def test_wrong_terms_stop_the_start(control: dict[str, Any], words: str) -> None:
    """The sentence has the path of the setting."""
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_control_settings({"control": control})


def test_the_audit_reads_like_a_diary() -> None:
    """The beginning and each change of the reason are a line with the duty."""
    entry = AuditEntry(
        0,
        "cool-memory/r1",
        (("alertname", "DimmHot"),),
        "pace engine r1",
        "steers",
        describe_state(STATE, "engine r1", ControlSettings()),
    )

    sentence = "controlled: engine r1 at a duty of 0.62: P1-DIMMA1 is 2.8 °C below its limit, wanted 3 below"

    assert _format_entry(entry).endswith(f"cool-memory/r1 (DimmHot): {sentence}")
