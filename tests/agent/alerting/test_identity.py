"""The identity is added once to alerts, never to /metrics, and to alerts in an older journal."""

from __future__ import annotations

import queue
from dataclasses import replace
from pathlib import Path

import pytest

from agent.alerting.identity import SOURCE, with_identity
from agent.alerting.notifier import build_payload
from agent.config.schema import RemediationConfig
from agent.remediation.context import RemediationContext
from agent.remediation.journal import Journal, take_timestamp
from agent.remediation.model import Act, AlertEpisode, Claim, Latch, Phase, RemediationState
from agent.remediation.remediator import Remediator
from agent.runtime.clock import Clock
from agent.web.exposition import Exposition
from collectors import Labels, Sample, gauge
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules

IDENTITY = {"instance": "h1", "job": "steadytok"}
HOT = gauge("steadytok_hot_celsius", "Heat.")
OLD: Labels = (("alertname", "Hot"), ("dimm", "a"))
NOW: Labels = (("alertname", "Hot"), ("dimm", "a"), ("instance", "h1"), ("job", "steadytok"))
POSTED: Labels = ((SOURCE, "webhook"), ("alertname", "RackHot"))


def _evaluate_rules(folder: Path, *more: str) -> tuple[History, RuleEvaluator]:
    rules = ["{alert: Hot, expr: steadytok_hot_celsius > 50}", "{alert: All, expr: sum(steadytok_hot_celsius) > 50}"]
    path = folder / "rules.yml"
    path.write_text("groups:\n- name: g\n  rules:\n" + "".join(f"  - {rule}\n" for rule in (*rules, *more)))
    history = History(3_600_000, identity=IDENTITY)
    evaluator = RuleEvaluator(load_rules([path]), interval_ms=1000, external_labels=IDENTITY, external_url="http://x")
    history.record("hwmon", 1000, [Sample(HOT, (("dimm", "a"),), 60.0)])
    evaluator.evaluate(history, 1000)
    return history, evaluator


def test_an_alert_leaves_with_it_once(tmp_path: Path) -> None:
    """Whether its rule kept the identity or summed it away, the alert has the labels that Alertmanager knows."""
    _, rules = _evaluate_rules(tmp_path)
    labels = {
        alert.name: build_payload(alert, 1000, 1000, IDENTITY, "http://x")["labels"] for alert in rules.list_alerts()
    }

    assert labels == {"Hot": dict(NOW), "All": {"alertname": "All", **IDENTITY}}


def test_the_exposition_lacks_it(tmp_path: Path) -> None:
    """Not even a recorded series with the agent's prefix has it: a scrape would rename it to exported_job."""
    expr = "max by (job, instance, dimm) (steadytok_hot_celsius)"
    history, _ = _evaluate_rules(tmp_path, f"{{record: steadytok_hottest_celsius, expr: '{expr}'}}")
    lines = Exposition(IDENTITY).render(history.get_latest()).splitlines()

    assert [line for line in lines if not line.startswith("#")] == [
        'steadytok_hot_celsius{dimm="a"} 60',
        'steadytok_hottest_celsius{dimm="a"} 60',
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (OLD, NOW),
        (NOW, NOW),
        (POSTED, POSTED),
        ((("instance", "other"),), (("instance", "other"), ("job", "steadytok"))),
    ],
)
def test_labels_are_whole(labels: Labels, expected: Labels) -> None:
    """Missing labels are added, own labels stay, and a posted alert does not change."""
    assert with_identity(labels, IDENTITY) == expected


def _build_context(folder: Path, rules: RuleEvaluator, history: History) -> RemediationContext:
    clock = Clock(lambda: 2.0)
    return RemediationContext(clock, history, lambda: rules, IDENTITY, "/", folder, folder / "token", "left")


def test_remedies_see_it(tmp_path: Path) -> None:
    """Remedies match the same labels as Alertmanager, even if the rule summed the identity away."""
    history, rules = _evaluate_rules(tmp_path)
    remedies = Remediator(_build_context(tmp_path, rules, history), RemediationConfig(), [])
    labels = [dict(each.alert.labels) for each in remedies.context.iter_alert_inputs(1000)]

    assert labels == [dict(NOW), {"alertname": "All", **IDENTITY}]


def test_what_was_held_before_is_still_claimed(tmp_path: Path) -> None:
    """Alerts of an older journal get the identity: an upgrade undoes nothing and forgets no attempt."""
    act = Act(
        1, "cool", "pace r1", OLD, False, True, Phase.HELD, 0, (Claim("cool", OLD, 0.7),), 0, "1.0", ("0.7",), True
    )
    act = replace(act, pending_tightening=act.claims[0])
    before = RemediationState(
        next_id=2,
        acts=(act,),
        latches=(Latch("cool", POSTED, 0, "it did not help"),),
        episodes=(AlertEpisode("cool", OLD, 0, attempts=2), AlertEpisode("tell", POSTED, 0)),
    )
    journal, answers = Journal(tmp_path, lambda: take_timestamp(2000)), queue.SimpleQueue[str | None]()
    journal.commit(before, [], answers.put)
    assert answers.get(timeout=10) is None
    journal.close()
    history, rules = _evaluate_rules(tmp_path)
    state = Remediator(_build_context(tmp_path, rules, history), RemediationConfig(), []).state

    assert [(act.labels, [claim.labels for claim in act.claims]) for act in state.acts] == [(NOW, [NOW])]
    assert [act.verdict_key for act in state.acts] == [("cool", NOW)]
    assert [(each.labels, each.attempts) for each in state.episodes] == [(NOW, 2), (POSTED, 0)]
    assert [latch.labels for latch in state.latches] == [POSTED]
