"""Alerts come back late where their file could be read only later, and never over what is newer."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from agent.alerting.alert_store import FILE, AlertStore
from agent.alerting.notifier import Notifier, NotifierCounters
from agent.config.schema import AlertingConfig
from agent.persistence import Persistence
from collectors import gauge
from rules.alert_restore import SavedAlert, build_rule_keys
from rules.alerts import Alert, AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules

NOW = 1_700_000_000_000
HEAT = gauge("heat", "Heat.")
PATIENCE = 60.0  # seconds


class Bench:
    """Rules, History and a state folder, as an agent has them."""

    def __init__(self, folder: Path) -> None:
        path = folder / "rules.yml"
        path.write_text("groups: [{name: g, rules: [{alert: Hot, expr: heat > 5}]}]")
        self.rules = RuleEvaluator(load_rules([path]), interval_ms=1000, external_labels={}, external_url="")
        self.history = History(3_600_000)
        self.notifier = Notifier(AlertingConfig(), {}, "", NotifierCounters(CollectorRegistry()))
        self.persistence = Persistence(folder / "state")
        self.now = NOW

    def tick(self, heat: float, dimm: str) -> None:
        self.now += 1000
        self.history.record("heat", self.now, [HEAT.sample(heat, dimm=dimm)])
        self.rules.evaluate(self.history, self.now)
        self.persistence.save_alerts(self.rules, self.notifier, self.now)
        self.persistence._alert_store.wait(PATIENCE)

    def list_starts(self) -> dict[str, tuple[AlertState, int]]:
        return {dict(alert.labels)["dimm"]: (alert.state, alert.active_at_ms) for alert in self.rules.list_alerts()}


def build_saved(bench: Bench, dimm: str, state: AlertState) -> SavedAlert:
    (key,) = build_rule_keys([rule for group in bench.rules.report() for rule in (each.rule for each in group.rules)])
    labels = (("alertname", "Hot"), ("dimm", dimm))
    alert = Alert("Hot", labels, (), state, 9.0, NOW - 60_000, "heat > 5", 1000, fired_at_ms=NOW - 60_000)
    return SavedAlert(key, replace(alert, resolved_at_ms=NOW - 1000 if state is AlertState.RESOLVED else None))


def test_alerts_come_back_when_their_file_does(tmp_path: Path) -> None:
    """Locked at the start, alerts.db is read later: an alert keeps its start, and one that began anew stays."""
    (tmp_path / "state").mkdir()
    setup = Bench(tmp_path)
    setup.persistence.close(setup.history, setup.rules, setup.notifier, NOW)
    store = AlertStore(tmp_path / "state")
    saved = [build_saved(setup, "A1", AlertState.FIRING), build_saved(setup, "B2", AlertState.RESOLVED)]
    store.save(saved, {saved[0].alert.labels: NOW - 5000}, NOW)
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / FILE, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("UPDATE saved SET at_ms = at_ms + 1")  # its log is not empty: the file alone does not tell all
        bench = Bench(tmp_path)
        bench.persistence.restore(bench.history, bench.rules, bench.notifier, ["heat"], NOW)
        bench.tick(9.0, "B2")
        assert bench.list_starts() == {"B2": (AlertState.FIRING, bench.now)}
        began = bench.now
    deadline = time.monotonic() + PATIENCE
    while "A1" not in bench.list_starts():
        assert time.monotonic() < deadline, "the alert does not come back"
        bench.tick(9.0, "B2")

    assert bench.list_starts() == {"A1": (AlertState.FIRING, NOW - 60_000), "B2": (AlertState.FIRING, began)}
    assert bench.notifier.last_sent_ms == {saved[0].alert.labels: NOW - 5000}
    bench.persistence.close(bench.history, bench.rules, bench.notifier, bench.now)
    assert {dict(alert.alert.labels)["dimm"] for alert in AlertStore(tmp_path / "state").saved_state.alerts} == {
        "A1",
        "B2",
    }


def test_damage_while_it_runs_is_moved_aside_too(tmp_path: Path) -> None:
    """A table that is gone under the running agent: the file is moved aside, and every alert is in the new one."""
    (tmp_path / "state").mkdir()
    bench = Bench(tmp_path)
    bench.persistence.restore(bench.history, bench.rules, bench.notifier, ["heat"], NOW)
    bench.tick(9.0, "A1")
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / FILE, isolation_level=None)) as other:
        other.execute("DROP TABLE alerts")
    for dimm in ("B2", "C3", "D4"):
        bench.tick(9.0, dimm)
    bench.persistence.close(bench.history, bench.rules, bench.notifier, bench.now)

    assert (tmp_path / "state" / f"{FILE}.unreadable").exists()
    names = {dict(alert.alert.labels)["dimm"] for alert in AlertStore(tmp_path / "state").saved_state.alerts}
    assert "D4" in names
