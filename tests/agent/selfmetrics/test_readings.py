"""Self-metrics about rules."""

from __future__ import annotations

from pathlib import Path

from agent.selfmetrics import readings
from collectors import Sample, gauge
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules
from tests.conftest import Series

HEAT = gauge("heat_celsius", "How hot.")
RULES = """
groups:
- name: heat
  rules:
  - {alert: Hot, expr: heat_celsius > 80, labels: {severity: warning}}
  - {alert: Hot, expr: heat_celsius > 80, for: 1m, labels: {severity: critical}}
"""


def test_alerts_are_counted_by_name_severity_and_state(tmp_path: Path, series: Series) -> None:
    """A fleet's Prometheus scrapes no ALERTS and has no rules: it draws alerts from this metric."""
    path = tmp_path / "rules.yml"
    path.write_text(RULES)
    rules = RuleEvaluator(load_rules([path]), interval_ms=1000, external_labels={}, external_url="")
    history = History(600_000)
    history.record("test", 1000, [Sample(HEAT, (("dimm", dimm),), 90.0) for dimm in ("A1", "B1")])
    rules.evaluate(history, 1000)
    firing = series(readings.read_rules(rules))
    history.record("test", 400_000, [Sample(HEAT, (("dimm", "A1"),), 70.0)])
    rules.evaluate(history, 400_000)

    labels = 'alertname="Hot",alertstate="{}",severity="{}"'
    counts = {name: value for name, value in firing.items() if name.startswith("steadytok_alerts")}
    assert counts == {
        f"steadytok_alerts{{{labels.format('firing', 'warning')}}}": 2.0,
        f"steadytok_alerts{{{labels.format('pending', 'critical')}}}": 2.0,
    }
    assert not any(name.startswith("steadytok_alerts") for name in series(readings.read_rules(rules)))
