"""Rules see `job` and `instance` as in a Prometheus that scrapes this host; alerts saved without them continue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from collectors import Labels, Sample, gauge
from rules import promql
from rules.alert_restore import SavedAlert
from rules.alerts import Alert
from rules.evaluator import RuleEvaluator
from rules.history.history import RECORDED_PREFIX, History
from rules.model import RuleSet
from rules.rulefile import load_rules

SECOND = 1000
IDENTITY = {"instance": "h1", "job": "steadytok"}
HOT = gauge("hot", "Heat.")
OWN = gauge("own", "What says itself whose it is.")


def _load_rules(folder: Path, *rules: str) -> RuleSet:
    path = folder / "r.yml"
    path.write_text("groups:\n- name: g\n  rules:\n" + "".join(f"  - {rule}\n" for rule in rules))
    return load_rules([path])


class _Host:
    """A History of one host, and an evaluator that runs each second; without `heat` the sensor is absent."""

    def __init__(self, rule_set: RuleSet) -> None:
        self.history = History(3600 * SECOND, identity=IDENTITY)
        self.rules = RuleEvaluator(rule_set, interval_ms=SECOND, external_labels=IDENTITY, external_url="")
        self.now_ms = 0

    def tick(self, heat: float | None = 60.0) -> None:
        self.now_ms += SECOND
        sensors = [] if heat is None else [Sample(HOT, (("dimm", "a"),), heat)]
        self.history.record("hwmon", self.now_ms, [*sensors, Sample(OWN, (("instance", "other"),), 1.0)])
        self.rules.evaluate(self.history, self.now_ms)

    def ask(self, text: str) -> list[dict[str, str]]:
        return [dict(labels) for labels, _ in promql.compile(text).evaluate_at(self.history, self.now_ms)]

    @property
    def query_labels(self) -> list[dict[str, str]]:
        return [dict(alert.labels) for alert in self.rules.list_alerts()]


@pytest.mark.parametrize(
    ("expr", "labels"),
    [
        ('hot{job="steadytok"} > 50', {"dimm": "a", **IDENTITY}),
        ('hot{instance=~"h.",job!="node"} > 50', {"dimm": "a", **IDENTITY}),
        ('{instance="h1",dimm="a"} > 50', {"dimm": "a", **IDENTITY}),
        ('hot{instance!="h1"} > 50', None),
        ('hot{instance=""} > 50', None),
        ('max_over_time(hot{instance="h1"}[1m]) > 50', {"dimm": "a", **IDENTITY}),
        ("sum by (instance) (hot) > 50", {"instance": "h1"}),
        ("sum without (dimm) (hot) > 50", IDENTITY),
        ("sum(hot) > 50", {}),
        ("hot * on (job) group_left (instance) own > 50", {"dimm": "a", "job": "steadytok", "instance": "other"}),
        ("hot > on (job, instance) own", None),
        ('own{instance="other"} == 1', {"job": "steadytok", "instance": "other"}),
        ('own{instance="h1"} == 1', None),
        ('absent(hot{job="steadytok"})', None),
        ('absent(hot{job="node"})', {"job": "node"}),
    ],
)
def test_a_rule_sees_it(expr: str, labels: dict[str, str] | None, tmp_path: Path) -> None:
    """Matchers, windows, groupings, joins and `absent` see the identity; a series with such a label keeps its own."""
    host = _Host(_load_rules(tmp_path, f"{{alert: A, expr: '{expr}'}}"))
    host.tick()

    assert host.rules.health[0].error == ""
    assert host.query_labels == ([] if labels is None else [{"alertname": "A", **labels}])


def test_a_template_sees_it(tmp_path: Path) -> None:
    """`$labels` and a template's own queries have the identity."""
    summary = '{{ $labels.instance }} of {{ range query "hot{job=\\"steadytok\\"}" }}{{ .Labels.job }}{{ end }}'
    host = _Host(_load_rules(tmp_path, f"{{alert: A, expr: hot > 50, annotations: {{summary: '{summary}'}}}}"))
    host.tick()

    assert dict(host.rules.list_alerts()[0].annotations)["summary"] == "h1 of steadytok"


def test_what_a_rule_records_has_the_labels_that_the_rule_gave_it(tmp_path: Path) -> None:
    """As in Prometheus, a recorded series does not get back labels that its rule aggregated away; nor does ALERTS."""
    host = _Host(
        _load_rules(
            tmp_path,
            "{record: 'whole:hot', expr: hot}",
            "{record: 'all:hot', expr: sum(hot)}",
            "{alert: A, expr: 'sum(hot) == all:hot'}",
            "{alert: B, expr: 'hot == whole:hot'}",
        )
    )
    host.tick()

    assert host.ask("whole:hot") == [{"__name__": "whole:hot", "dimm": "a", **IDENTITY}]
    assert host.ask("all:hot") == [{"__name__": "all:hot"}]
    assert host.ask('count by (alertname, instance) (ALERTS{alertstate="firing"})') == [
        {"alertname": "A"},
        {"alertname": "B", "instance": "h1"},
    ]
    for text in ("all:hot", "whole:hot", "ALERTS", "hot", '{job="steadytok"}', '{instance="",alertname!=""}'):
        vector = promql.compile(text).evaluate_at(host.history.snapshot(), host.now_ms)
        assert [dict(labels) for labels in vector.labels] == host.ask(text)


def test_a_recorded_series_that_is_a_sampled_one_is_refused(tmp_path: Path) -> None:
    """The samples of the first series stay, and the conflict is counted: no two series have the same labels."""
    host = _Host(_load_rules(tmp_path, "{record: hot, expr: hot + 1}"))
    host.tick()

    assert len(host.ask("hot")) == 1
    assert host.history.conflicts == 1


def test_a_series_that_is_forgotten_comes_back(tmp_path: Path) -> None:
    """With an identity too, a forgotten series frees its column and can return."""
    host = _Host(_load_rules(tmp_path, "{alert: A, expr: 'hot{job=\"steadytok\"} > 50'}"))
    host.tick()
    host.tick(None)
    host.now_ms += 2 * 3600 * SECOND
    host.tick(None)
    host.history.forget(host.now_ms)
    gone = host.history.list_names()
    host.tick()

    assert "hot" not in gone
    assert host.history.get_value("hot", dimm="a") == 60
    assert {"alertname": "A", "dimm": "a", **IDENTITY} in host.query_labels


def test_a_reading_is_recorded_as_its_collector_gave_it(tmp_path: Path) -> None:
    """Stored and scraped series lack the identity, so that a new host name does not make new series of them."""
    host = _Host(_load_rules(tmp_path, "{alert: A, expr: hot > 50}"))
    host.tick()
    (rows,) = (rows for rows in host.history.iter_rows({}) if rows.heading.group == "hwmon")

    assert rows.heading.labels == ((("dimm", "a"),), (("instance", "other"),))
    assert ("hot", (("dimm", "a"),)) in [(metric.name, labels) for metric, labels, *_ in host.history.get_latest()]
    assert all(group.startswith(RECORDED_PREFIX) for group in host.rules.list_sampling_groups())


def _remove_identity(saved_alerts: tuple[SavedAlert, ...]) -> list[SavedAlert]:
    """Removes the identity from saved alerts, as older agents saved them."""

    def remove_labels(alert: Alert) -> Alert:
        labels: Labels = tuple(pair for pair in alert.labels if pair not in IDENTITY.items())
        return replace(alert, labels=labels)

    return [SavedAlert(rule, remove_labels(alert)) for rule, alert in saved_alerts]


@pytest.mark.parametrize("expr", ["hot > 50", "max by (dimm) (hot) > 50", "sum by (job, instance) (hot) > 50"])
def test_an_alert_that_was_kept_without_it_goes_on(expr: str, tmp_path: Path) -> None:
    """After an upgrade the alert continues once with its times, and ends; `for` does not restart."""
    rule_set = _load_rules(tmp_path, f"{{alert: A, expr: '{expr}', for: 4s}}")
    before, after = _Host(rule_set), _Host(rule_set)
    before.tick()
    before.tick()
    after.now_ms = before.now_ms
    after.rules.restore_alerts(_remove_identity(before.rules.export_alerts()), after.now_ms, before.now_ms)
    (full_labels,) = before.query_labels

    for state in ("pending", "pending", "firing"):
        after.tick()
        (alert,) = after.rules.list_alerts()
        assert (dict(alert.labels), alert.state.value, alert.active_at_ms) == (full_labels, state, SECOND)
    after.tick(10)
    assert [alert.state.value for alert in after.rules.list_alerts()] == ["resolved"]
    after.tick()
    assert [alert.state.value for alert in after.rules.list_alerts()] == ["pending"]


def test_an_alert_that_had_ended_is_not_told_beside_its_next_one(tmp_path: Path) -> None:
    """Alertmanager knows both by the same labels: the ended alert must not resolve the firing one."""
    rule_set = _load_rules(tmp_path, "{alert: A, expr: hot > 50}")
    before, after = _Host(rule_set), _Host(rule_set)
    before.tick()
    before.tick(10)
    after.now_ms = before.now_ms
    after.rules.restore_alerts(_remove_identity(before.rules.export_alerts()), after.now_ms, before.now_ms)
    after.tick(10)
    assert [alert.state.value for alert in after.rules.list_alerts()] == ["resolved"]
    after.tick()

    assert [(dict(alert.labels), alert.state.value) for alert in after.rules.list_alerts()] == [
        ({"alertname": "A", "dimm": "a", **IDENTITY}, "firing")
    ]
