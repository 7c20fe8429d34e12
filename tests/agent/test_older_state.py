"""
A state folder that the version before the rooms (de91947) wrote is read by this one, with everything that it holds.

The folder tests/agent/state_before_rooms comes from an agent of that version on a machine of one DIMM: an alert that
fires, one that waits, a posted alert, remedies that observed them, a recording; and an act that was held, a latch, a
baseline and a thermal model, written by the classes of that version.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agent.alerting.notifier import Notifier, NotifierCounters
from agent.alerting.webhook_inbox import Inbox
from agent.config.schema import AlertingConfig
from agent.engines.baseline import Baseline
from agent.engines.baseline_handover import BASELINE_FILE
from agent.pacing import learner
from agent.pacing.learner import PlantLearner
from agent.persistence import Persistence
from agent.remediation import journal
from agent.remediation.journal import Journal, Timestamp, read_stored_state
from agent.remediation.model import Phase
from rules import promql
from rules.alerts import AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules

FOLDER = Path(__file__).parent / "state_before_rooms"
STARTED_MS = 1_796_073_791_157  # when the alerts of the folder began
NOW_MS = STARTED_MS + 20_000
IDENTITY = {"instance": "box", "job": "steadytok"}
HEAT = "steadytok_dimm_temperature_celsius"
RULES = f"""
groups:
  - name: test
    interval: 1s
    rules:
      - {{alert: Hot, expr: "{HEAT} > 80", labels: {{severity: critical}}}}
      - {{alert: HotForLong, expr: "{HEAT} > 80", for: 1h}}
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A copy of the older folder, since a database is written to when it is opened."""
    return Path(shutil.copytree(FOLDER, tmp_path / "state"))


def _load_evaluator(folder: Path) -> RuleEvaluator:
    path = folder / "rules.yml"
    path.write_text(RULES)
    return RuleEvaluator(load_rules([path]), interval_ms=1000, external_labels={}, external_url="http://x")


def test_alerts_and_readings_are_restored(folder: Path) -> None:
    """Both alerts go on from when they began, in the state that they had; the recording is in History again."""
    history, rules = History(3_600_000, identity=IDENTITY), _load_evaluator(folder)
    notifier = Notifier(AlertingConfig(), {}, "http://x", NotifierCounters(CollectorRegistry()))
    persistence = Persistence(folder)
    persistence.restore(history, rules, notifier, ["hwmon", "meminfo"], NOW_MS)
    rules.evaluate(history, NOW_MS)

    alerts = {dict(alert.labels)["alertname"]: alert for alert in rules.list_alerts()}
    assert {name: (alert.state, alert.active_at_ms) for name, alert in alerts.items()} == {
        "Hot": (AlertState.FIRING, STARTED_MS),
        "HotForLong": (AlertState.PENDING, STARTED_MS),
    }
    recorded = promql.compile(f"last_over_time({HEAT}[1m])").evaluate_at(history, NOW_MS)
    assert recorded.values.tolist() == [86.0]
    persistence.close(history, rules, notifier, NOW_MS)


def test_posted_alerts_are_restored(folder: Path) -> None:
    """An alert that an Alertmanager posted to the older version still fires."""
    inbox = Inbox(folder, NOW_MS)
    (alert,) = inbox.firing_alerts(NOW_MS)

    assert dict(alert.labels)["alertname"] == "Posted"
    inbox.close()


def test_the_journal_is_restored(folder: Path) -> None:
    """An act that is held stays held with its prior value; latches, misses and the audit are all there."""
    opened = Journal(folder, lambda: Timestamp(NOW_MS, 5000, "boot-a"))
    state = opened.state
    opened.close()
    (act,) = state.acts

    assert (act.remedy, act.phase, act.prior, act.ours) == ("cool", Phase.HELD, "1.0", ("0.7",))
    assert [claim.remedy for claim in act.claims] == ["cool"]
    assert [(latch.remedy, latch.why) for latch in state.latches] == [("drop", "it did not help")]
    assert dict(state.misses) == {"cool": 2}
    entries = journal.read_audit(folder / journal.FILE, 100)
    assert {entry.what for entry in entries} >= {"begin", "refused", "suppressed", "paused", "did"}


def test_the_journal_is_written_with_the_names_of_the_older_version(folder: Path) -> None:
    """After a failed upgrade the older version reads the journal again: each key is in place, under its older name."""
    stored = _read_body(folder)
    state = replace(read_stored_state(folder), latches=())
    held = replace(state.acts[0], pending_tightening=state.acts[0].claims[0])
    opened = Journal(folder, lambda: Timestamp(NOW_MS, 5000, "boot-a"))
    opened.commit(replace(state, acts=(held,)), (), lambda _: None)
    opened.close()
    written = _read_body(folder)

    assert [*written] == [*stored]
    assert [*written["acts"][0]] == [*stored["acts"][0]]
    assert [*written["sessions"][0]] == [*stored["sessions"][0]]
    assert written["acts"][0]["means"] == stored["acts"][0]["means"]
    assert written["acts"][0]["trial"] == written["acts"][0]["claims"][0]
    assert [episode["told"] for episode in written["sessions"]] == [episode["told"] for episode in stored["sessions"]]
    assert read_stored_state(folder).acts == (held,)


def _read_body(folder: Path) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(folder / journal.FILE)) as database:
        (body,) = database.execute("SELECT body FROM state").fetchone()
    fields: dict[str, Any] = json.loads(body)
    return fields


def test_baselines_are_restored(folder: Path) -> None:
    """The learnt speeds and placements are written again as they were read."""
    stored = (folder / BASELINE_FILE).read_text(encoding="utf-8")

    assert json.loads(Baseline(stored).dump()) == json.loads(stored)


def test_the_thermal_model_is_restored(folder: Path) -> None:
    """What was learnt of an engine's heat is written again as it was read."""
    stored = (folder / learner.STATE_FILE).read_text(encoding="utf-8")

    assert json.loads(PlantLearner(stored, dict).to_json()) == json.loads(stored)
