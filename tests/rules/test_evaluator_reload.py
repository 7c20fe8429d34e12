"""A reload of the rules: unchanged rules keep their alerts, their `for` and their series."""

from __future__ import annotations

from pathlib import Path

from rules.alerts import AlertState
from rules.model import RuleSet
from tests.rules.evaluated_host import Host, load_rule_text


def _reload(host: Host, rule_set: RuleSet) -> None:
    host.rules = host.rules.replace_rules(rule_set)


def test_for_keeps_running_over_a_reload(tmp_path: Path) -> None:
    """A rule of the same name and labels keeps its alerts even if its expression changed."""
    host = Host(load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1, for: 2s}"))
    host.tick(5)
    _reload(host, load_rule_text(tmp_path, "{alert: First, expr: vector(0) > 1}\n{alert: Hot, expr: hot > 2, for: 2s}"))
    host.tick(5)
    host.tick(5)

    assert (host.alert.state, host.alert.active_at_ms, host.alert.expr) == (AlertState.FIRING, 1000, "hot > 2")
    assert host.history.get_value("ALERTS", alertname="Hot", dimm="0", alertstate="firing") == 1
    assert host.history.conflicts == 0


def test_a_longer_for_after_a_reload_goes_back_to_pending(tmp_path: Path) -> None:
    """As in Prometheus since #18244."""
    host = Host(load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1}"))
    host.tick(5)
    _reload(host, load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1, for: 1m}"))
    host.tick(5)

    assert (host.alert.state, host.alert.fired_at_ms) == (AlertState.PENDING, None)


def test_a_rule_that_is_gone_ends_its_series_without_a_resolved(tmp_path: Path) -> None:
    """Alertmanager lets the alerts expire; the series get stale markers at the next evaluation."""
    host = Host(load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1}\n{record: r, expr: hot}"))
    host.tick(5)
    _reload(host, load_rule_text(tmp_path, "{alert: Other, expr: hot > 9}"))
    host.tick(5)

    assert host.rules.list_alerts() == ()
    assert host.history.get_value("ALERTS", alertname="Hot", dimm="0", alertstate="firing") is None
    assert host.history.get_value("r", dimm="0") is None
    assert host.rules.health[0].fresh


def test_new_labels_make_a_new_rule_whose_series_follow_the_old(tmp_path: Path) -> None:
    """`for` restarts; the old series ends, and the new one is not refused as another owner's."""
    host = Host(load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1, for: 1s, labels: {severity: info}}"))
    host.tick(5)
    host.tick(5)
    _reload(host, load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1, for: 1s, labels: {severity: page}}"))
    host.tick(5)
    live = [labels for metric, labels, _, _ in host.history.get_latest() if metric.name == "ALERTS"]

    assert host.alert.state is AlertState.PENDING
    assert [dict(labels)["severity"] for labels in live] == ["page"]
    assert host.history.conflicts == 0


def test_a_reload_of_the_same_rules_changes_nothing(tmp_path: Path) -> None:
    """Two rules of one name each keep their own state, and nothing is evaluated too early."""
    rules = "{alert: Hot, expr: hot > 1, labels: {s: a}}\n{alert: Hot, expr: hot > 2, labels: {s: b}}"
    host = Host(load_rule_text(tmp_path, rules, "  interval: 10s\n"))
    host.tick(5)
    before = host.rules.list_alerts()
    _reload(host, load_rule_text(tmp_path, rules, "  interval: 10s\n"))
    host.tick(0)

    assert host.rules.list_alerts() == before
    assert len(before) == 2
