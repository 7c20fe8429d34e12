"""Payloads of webhooks from public reports: one picture for each, with what becomes of its alerts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.config.loader import parse
from agent.remediation import evidence
from agent.remediation.catalog import bind_remedies
from agent.remediation.model import AlertInput
from agent.web.webhook_payload import compute_fingerprint
from rules.alerts import Alert
from tests.agent.web.test_webhook_api import post

PICTURES = Path(__file__).parent / "pictures/webhooks"
POSTED = {"sources": ["webhook"], "instance": ".*", "action": "webhook", "target": {"url": "http://127.0.0.1:9/"}}
REMEDIES = [
    {"name": "any-of-fleet", "match": ['severity=~".+"'], "labels": {"alertname": ".+"}, **POSTED},
    {"name": "ping-failed", "match": ['alertname="ICMP ping failed"'], **POSTED},
]


@dataclass
class FleetRemedies:
    """A remedy for every alert of a severity, and one for a name with blanks, in place of the Remediator."""

    def __post_init__(self) -> None:
        document = {"remediation": {"builtin": False}, "remedies": REMEDIES}
        self.remedies = bind_remedies(parse(document, "f", {}), "f")

    def matches_alert(self, alert: Alert) -> bool:
        return any(evidence.matches(remedy, AlertInput(alert, source="webhook")) for remedy in self.remedies)


def post_picture(folder: Path, *names: str) -> list[tuple[int, Any]]:
    return post(folder, *((PICTURES / f"{name}.json").read_bytes() for name in names), matcher=FleetRemedies())  # type: ignore[arg-type]  # it matches as the Remediator does


REPORTS = {
    "chinese_name": ("alertmanager#2142", {"taken": 1}),
    "start_with_offset": ("alertmanager#958", {"taken": 1}),
    "no_fingerprint": ("Alertmanager before 0.19 sends none", {"taken": 1}),
    "one_of_three_without_fingerprint": ("one alert without fingerprint in a group", {"taken": 3}),
    "name_with_blanks": ("matjaz99/alertmonitor", {"taken": 1}),
    "null_annotations": ("alertmanager#1423", {"taken": 1}),
    "empty_name": ("an alert whose name is empty", {"unwanted": 1}),
    "no_name": ("an alert without a name", {"unwanted": 1}),
    "start_in_year_1": ("alertmanager#2227", {"taken": 1}),
    "newline_after_body": ("alertmanager#3341", {"taken": 1}),
    "utf8_label_names": ("label names of Prometheus 3", {"taken": 1}),
    "one_of_two_with_70_labels": ("alertmanager#2418", {"refused": 1, "taken": 1}),
    "one_of_two_suppressed": (
        "a status that Alertmanager's API has and its webhook has not",
        {"refused": 1, "taken": 1},
    ),
    "one_of_two_with_a_number": ("a label that is a number", {"refused": 1, "taken": 1}),
    "no_alerts": ("a group without alerts", {}),
    "upper_case_fingerprint": ("a fingerprint in upper case", {"taken": 1}),
    "one_of_two_with_a_long_value": ("alertmanager#1051", {"refused": 1, "taken": 1}),
    "resolved_and_unknown": ("the end of an alert that was never posted", {"resolved": 1}),
}
REFUSED = {
    "no_version": ("woniusnai/alertmanagerTofeishu, test.sh", "version"),
    "grafana_version_1": ("Grafana's own alerting", 'expected version "4"'),
    "alerts_null": ("a list that is null", "alerts"),
    "lone_surrogate": ("half of a character in JSON", "JSON is malformed"),
}


@pytest.mark.parametrize("name", REPORTS)
def test_what_is_reported_is_taken_as_far_as_it_can_be(tmp_path: Path, name: str) -> None:
    """alertmanager#2142, #958, #1423, #2227, #3341, #2418, #1051: an odd alert is refused alone, a usual one taken."""
    assert post_picture(tmp_path, name) == [(200, REPORTS[name][1])]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_payload_gets_a_reason(tmp_path: Path, name: str) -> None:
    """Grafana's version 1 and payloads made by hand: the answer is a 400 that says what was expected."""
    ((status, reason),) = post_picture(tmp_path, name)

    assert status == 400
    assert REFUSED[name][1] in reason


def test_every_picture_is_used() -> None:
    """No picture lies there without a test."""
    assert {path.stem for path in PICTURES.iterdir()} == {*REPORTS, *REFUSED}


def test_with_and_without_a_fingerprint_it_is_one_alert(tmp_path: Path) -> None:
    """Alertmanager before 0.19: the same labels give the same alert, so that a repeat is one."""
    assert post_picture(tmp_path, "no_fingerprint", "no_fingerprint") == [(200, {"taken": 1}), (200, {"repeated": 1})]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, "cbf29ce484222325"),
        ({"alertname": "ICMP ping failed", "instance": "192.0.2.30"}, "d7a3b9f44c7fc7fc"),
        ({"alertname": "节点状态", "k8s.node.name": "n1"}, "4a98e0d3525fd038"),
    ],
)
def test_a_fingerprint_is_alertmanagers(labels: dict[str, str], expected: str) -> None:
    """prometheus/common, model/signature.go: 64-bit FNV-1a over names and values in order, each followed by 0xff."""
    assert compute_fingerprint(labels) == expected
