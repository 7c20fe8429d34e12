"""The controller in its place: what it asks History, what the action makes of it, and what people are shown."""

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
from agent.console.host_view import HostViewBuilder
from agent.console.live_table import build_rows
from agent.engines.baseline import Baseline
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
from tests.agent.actions.test_actions import Reach
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


class Desk:
    """A History in which a simulated host is recorded each second, and what is asked of it."""

    def __init__(self) -> None:
        self.history = History(3_600_000)
        self.now_ms = 1_000_000

    def record(self, group: str, *readings: Reading | Iterable[Reading]) -> None:
        flat = [each for one in readings for each in (one if isinstance(one, list) else [one])]
        self.history.record(group, self.now_ms, [reading for reading in flat if reading is not None])  # type: ignore[misc]  # flat by now

    def ask(self, expr: str) -> list[tuple[dict[str, str], float]]:
        found = promql.compile(expr).evaluate_at(self.history, self.now_ms)
        return [(dict(labels), value) for labels, value in found]


def task(duty: float = 0.7, remedy: str = "cool", terms: ControlSettings | None = None, **control: Any) -> Task:
    own = PACE.Config(duty=duty, control=terms or ControlSettings(**control))
    return Task(remedy, {"engine": "r1"}, own, {"alertname": "DimmHot"}, ENGINES)


def fixed(duty: float, remedy: str = "other") -> Task:
    return Task(remedy, {"engine": "r1"}, PACE.Config(duty=duty), {"alertname": "A"}, ENGINES)


def drive(
    seconds: int, work: Callable[[int], float], dimm: Dimm, *, steered: bool
) -> tuple[Desk, PlantLearner, list[float]]:
    """A host by the second: it works, heats, is recorded, is learnt, and is steered where that is asked for."""
    desk, memory, duty, duties = Desk(), None, 1.0, []
    known = PlantLearner(None, dict)
    if steered:
        duty = 0.7
    for second in range(seconds):
        desk.now_ms += SECOND
        share = work(second) * duty
        dimm.pass_second(share)
        running = [RUNNING.sample(2.0 if work(second) else 0.0, engine="r1"), DUTY.sample(duty, engine="r1")]
        desk.record("engine", *running)
        desk.record("hwmon", HEADROOM.sample(dimm.read(), dimm="A", source="hwmon"))
        desk.record("agent", INTERVAL.sample(dimm.period, collector="hwmon"), *known.readings())
        if second % 5 == 0:
            known.observe(desk.history, desk.now_ms)
        if steered:
            memory, duty = PACE.steer(task(always=True), memory, Moment(desk.now_ms, duty, False, desk.ask))
        duties.append(duty)
    return desk, known, duties


def work(second: int) -> float:
    """It works for five minutes and rests for four."""
    return 1.0 if second % 540 < 300 else 0.0


def test_it_learns_from_history_without_pacing() -> None:
    """The first day shows what an engine heats and what pacing would be worth, in metrics; a restart keeps it."""
    dimm = Dimm(Plant(50, 100, idle=43), headroom=43)
    desk, known, _ = drive(3600, work, dimm, steered=False)
    shown = {name: desk.history.get_value(name, engine="r1") for name in (metric.name for metric in metrics.METRICS)}

    assert shown["steadytok_pace_gain_celsius"] == pytest.approx(50, rel=0.1)
    assert shown["steadytok_pace_idle_headroom_celsius"] == pytest.approx(43, abs=2)
    assert shown["steadytok_pace_predicted_duty"] == pytest.approx(0.8, abs=0.05)
    assert shown["steadytok_pace_pays"] in (0.0, 1.0)
    again = PlantLearner(known.to_json(), dict)
    again.observe(desk.history, desk.now_ms)
    assert {reading.metric.name for reading in again.readings() if reading is not None} >= {metrics.GAIN.name}


def test_an_engine_that_has_left_is_not_told_of() -> None:
    """Silent for a minute it is still what it was, since its act goes on; after a quarter of an hour it has gone."""
    desk, known, _ = drive(2400, work, Dimm(Plant(50, 100, idle=43), headroom=43), steered=False)
    desk.history.silence("engine", desk.now_ms + 1)
    known.observe(desk.history, desk.now_ms + 60 * SECOND)
    assert list(known.readings())

    known.observe(desk.history, desk.now_ms + 1000 * SECOND)
    assert list(known.readings()) == []


def test_what_was_stored_by_nobody_is_learnt_anew() -> None:
    """A damaged file is told and forgotten."""
    for text in ("", "{", '{"version": 1, "engines": {"r1": {"learnt": {}, "left": 0, "speed": 0}}}', "[]"):
        assert list(PlantLearner(text, dict).readings()) == []


def test_steer_holds_a_dimm_through_history() -> None:
    """What it asks in PromQL is what it needs: the DIMM ends at the set point, at the duty that the plant wants."""
    dimm = Dimm(Plant(50, 100, idle=33), headroom=4)
    _, _, duties = drive(2400, lambda _: 1.0, dimm, steered=True)

    assert dimm.headroom == pytest.approx(3, abs=1.5)
    assert duties[-1] == pytest.approx(0.6, abs=0.04)
    changes = sum(1 for before, after in itertools.pairwise(duties) if before != after)
    assert changes < 100  # each is a line of the journal, and a request


def test_what_the_engine_had_under_the_firmware_is_measured() -> None:
    """Its speed over its baseline while the DIMM is at its limit; while it is paced that is not known."""
    desk, known = Desk(), PlantLearner(None, dict)
    for second in range(0, 400, 5):
        desk.now_ms += 5 * SECOND
        duty = 1.0 if second < 200 else 0.5
        desk.record("engine", RUNNING.sample(1.0, engine="r1"), DUTY.sample(duty, engine="r1"))
        desk.record("hwmon", HEADROOM.sample(-1.0, dimm="A", source="hwmon"))
        speed = 40.0 if duty == 1.0 else 90.0
        desk.record("agent", TOKENS.sample(speed, engine="r1"), BASELINE.sample(100.0, engine="r1"))
        known.observe(desk.history, desk.now_ms)

    stored = json.loads(known.to_json())["engines"]
    assert stored == {}  # nothing is learnt of the plant above the limit
    assert known._engines["r1"].throttled_speed == pytest.approx(0.4)


def moment(desk: Desk, held: float, *, lost: bool = False, beside: tuple[Task, ...] = ()) -> Moment:
    return Moment(desk.now_ms, held, lost, desk.ask, beside)


def test_a_lost_alert_ramps_a_controller_to_its_safe_duty() -> None:
    """Not before the alert's evidence is lost, by steps, and back to work when it is found again."""
    desk = Desk()
    memory, held = None, 0.9
    for _ in range(12):
        desk.now_ms += 5 * SECOND
        memory, held = PACE.steer(task(safe=0.6), memory, moment(desk, held, lost=True))
    assert held == 0.6
    assert memory.reason == "lost"
    assert "the alert's evidence is lost" in memory.says

    desk.now_ms += 5 * SECOND
    desk.record("hwmon", HEADROOM.sample(30.0, dimm="A", source="hwmon"))
    memory, held = PACE.steer(task(safe=0.6), memory, moment(desk, held))
    assert memory.reason == "learns"
    assert 0.6 < held <= 0.7


def test_between_two_looks_nothing_is_asked() -> None:
    """A tick comes each second, a look each five: steer gives what it gave."""
    desk, asked = Desk(), []

    def ask(expr: str) -> list[tuple[dict[str, str], float]]:
        asked.append(expr)
        return desk.ask(expr)

    memory, first = PACE.steer(task(), None, Moment(desk.now_ms, 0.7, False, ask))
    looked = len(asked)
    for tick in range(1, 5):
        memory, duty = PACE.steer(task(), memory, Moment(desk.now_ms + tick * SECOND, first, False, ask))
        assert duty == first
    assert len(asked) == looked


def test_of_several_claims_the_lowest_duty_is_held() -> None:
    """A fixed duty beside a controller is a ceiling for it, and the other way round."""
    desk = Desk()
    desk.record("hwmon", HEADROOM.sample(40.0, dimm="A", source="hwmon"))
    memory, duty = None, 0.7
    for _ in range(40):
        desk.now_ms += 5 * SECOND
        desk.record("hwmon", HEADROOM.sample(40.0, dimm="A", source="hwmon"))
        memory, duty = PACE.steer(task(), memory, moment(desk, duty, beside=(fixed(0.8),)))
    assert duty == 0.8
    assert PACE.steer(fixed(0.8), memory, moment(desk, duty, beside=(task(),)))[1] == 0.8
    assert PACE.steer(fixed(0.3), memory, moment(desk, duty, beside=(task(),)))[1] == 0.3


KNOWN = {"steadytok_pace_predicted_duty": 0.31, "steadytok_pace_firmware_duty": 0.74, "steadytok_pace_pays": 0.0}


def test_a_plan_refuses_where_it_would_not_pay() -> None:
    """With the numbers; and not where the operator wants it all the same, nor before anything is known."""
    with pytest.raises(RefusedError, match=r"needs air, not pacing: .* leave 31% of its speed, .* leaves 74%"):
        PACE.plan(task(), Reach(values=KNOWN))

    assert PACE.plan(task(always=True), Reach(values=KNOWN)).wanted == 0.31
    assert PACE.plan(task(), Reach(values={**KNOWN, "steadytok_pace_pays": 1.0})).wanted == 0.31
    assert PACE.plan(task(0.6), Reach()).wanted == 0.6
    assert PACE.plan(fixed(0.6), Reach(values=KNOWN)).wanted == 0.6


STATE = control.ControllerState(0.62, 0.62, 0.6, "holds", "P1-DIMMA1", 2.8, 3.0, -0.2)
FOUND = {"plant": Plant(50, 120, idle=41), "benefit": Benefit(0.76, 0.55)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            FOUND,
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
def test_the_duty_and_its_reason_are_one_sentence(changes: dict[str, Any], says: str) -> None:
    """As the audit, `remedies list` and the live table show it."""
    state = control.replace(STATE, **changes)

    assert describe_state(state, "engine r1", ControlSettings()) == says


def test_the_live_table_shows_it() -> None:
    """A row of its own."""
    history = History(3_600_000)
    view = HostViewBuilder().build(history, [], Baseline(), 1000, pacing=["engine r1 at a duty of 0.62: because"])

    assert ("pacing", "engine r1 at a duty of 0.62: because") in [(row.label, row.text) for row in build_rows(view)]


def terms_of(parameters: dict[str, Any]) -> ControlSettings | None:
    """What a configuration makes of a remedy's parameters; ConfigError where they are wrong."""
    remedy = {"name": "hot", "match": ['alertname="DimmHot"'], "action": "pace", "parameters": parameters}
    engines = [{"name": "r1", "url": "http://127.0.0.1:1"}]
    settings = {"engines": engines, "remedies": [{**remedy, "target": {"engine": "r1"}}]}
    book = catalog.bind_remedies(parse({**settings, "remediation": {"builtin": False}}, "f", {}), "f")
    action, again = catalog.from_undo_recipe("hot", book[0].remedy.undo_recipe, {})
    assert (action, again.own.control) == (PACE, book[0].task.own.control)
    return catalog.collect_pacing_settings(book).get("r1")


def test_the_terms_are_the_operators() -> None:
    """What the file says is what the controller has, after a restart too; without `control` there is no controller."""
    assert terms_of({"control": {"margin": 2, "throttle": [[0, 0.5]]}}) == ControlSettings(
        margin=2.0, throttle=((0.0, 0.5),)
    )
    assert terms_of({"control": {}}) == ControlSettings()
    assert terms_of({"duty": 0.5}) is None


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
    """With the place, in one sentence."""
    with pytest.raises(ConfigError, match=re.escape(words)):
        terms_of({"control": control})


def test_the_audit_reads_like_a_diary() -> None:
    """When it begins, when the reason changes: the duty and why, in a line."""
    entry = AuditEntry(
        0,
        "cool-memory/r1",
        (("alertname", "DimmHot"),),
        "pace engine r1",
        "steers",
        describe_state(STATE, "engine r1", ControlSettings()),
    )

    said = "steers: engine r1 at a duty of 0.62: P1-DIMMA1 is 2.8 °C below its limit, wanted 3 below"

    assert _format_entry(entry).endswith(f"cool-memory/r1 (DimmHot): {said}")
