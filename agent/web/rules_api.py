"""
Lists the rules and alerts in the query API, in Prometheus' format.

https://prometheus.io/docs/prometheus/latest/querying/api/#rules
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from agent.web.query_params import BadRequestError, Parameters
from rules import promql
from rules.alerts import Alert, AlertState
from rules.evaluator import GroupReport, RuleReport
from rules.numbers import format_scientific

_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time
_KINDS = {"": ("alert", "record"), "alert": ("alert",), "record": ("record",)}

Json = dict[str, Any]


def list_alerts(alerts: Iterable[Alert], identity: Mapping[str, str]) -> Json:
    """Returns the alerts that are pending or firing."""
    return {"alerts": [_encode_alert(alert, identity) for alert in alerts if alert.state is not AlertState.RESOLVED]}


def list_groups(reports: Iterable[GroupReport], identity: Mapping[str, str], params: Parameters) -> Json:
    """Returns the groups and rules that the parameters select; raises BadRequestError."""
    rule_filter = _RuleFilter(params)
    reports = sorted(reports, key=lambda report: (report.group.file, report.group.name))
    matching = [(report, selected) for report in reports if (selected := rule_filter.select_rules(report)) is not None]
    page, next_token = _paginate(matching, params)
    answer: Json = {
        "groups": [_encode_group(report, selected, rule_filter.with_alerts, identity) for report, selected in page]
    }
    return {**answer, "groupNextToken": next_token} if next_token else answer


class _RuleFilter:
    """Selects rules by the parameters of a request."""

    def __init__(self, params: Parameters) -> None:
        kind = params.get_text("type").lower()
        if kind not in _KINDS:
            raise BadRequestError(f'not supported value "{kind}"; expected alert or record')
        self.kinds = _KINDS[kind]
        self.names = set(params.get_texts("rule_name[]"))
        self.group_names = set(params.get_texts("rule_group[]"))
        self.files = set(params.get_texts("file[]"))
        self.with_alerts = params.get_text("exclude_alerts").lower() not in ("1", "t", "true")
        try:
            self.matchers = [promql.parse_selector(text) for text in params.get_texts("match[]")]
        except promql.PromqlError as error:
            raise BadRequestError(f'invalid parameter "match[]": {error}') from None
        self.is_unfiltered = not (self.names or self.matchers or len(self.kinds) < len(_KINDS[""]))

    def select_rules(self, report: GroupReport) -> list[RuleReport] | None:
        """Returns the selected rules of a group; None for a group that is not selected."""
        group = report.group
        if (self.group_names and group.name not in self.group_names) or (self.files and group.file not in self.files):
            return None
        selected = [rule for rule in report.rules if self._matches(rule)]
        return selected if selected or self.is_unfiltered else None

    def _matches(self, report: RuleReport) -> bool:
        rule = report.rule
        if rule.kind not in self.kinds or (self.names and rule.name not in self.names):
            return False
        labels = {name: template.text for name, template in rule.labels}
        return not self.matchers or any(
            all(matcher.test(labels.get(matcher.label, "")) for matcher in matchers) for matchers in self.matchers
        )


_SelectedGroups = list[tuple[GroupReport, list[RuleReport]]]


def _paginate(selected: _SelectedGroups, params: Parameters) -> tuple[_SelectedGroups, str]:
    """Returns at most `group_limit` groups, beginning at the token, and the token of the next page."""
    limit, token = params.get_limit("group_limit"), params.get_text("group_next_token")
    tokens = [hashlib.sha1(f"{report.group.file};{report.group.name}".encode()).hexdigest() for report, _ in selected]
    if token and not limit:
        raise BadRequestError("group_limit needs to be set in order to paginate over the groups")
    if token and token not in tokens:
        raise BadRequestError(f'invalid group_next_token "{token}": the rules may have changed; begin again without it')
    first = tokens.index(token) if token else 0
    last = first + limit if limit else len(selected)
    return selected[first:last], tokens[last] if last < len(selected) else ""


def _encode_group(report: GroupReport, rules: list[RuleReport], with_alerts: bool, identity: Mapping[str, str]) -> Json:
    return {
        "name": report.group.name,
        "file": report.group.file,
        "rules": [_encode_rule(rule, with_alerts, identity) for rule in rules],
        "interval": report.interval_ms / 1000,
        "limit": report.group.limit,
        "evaluationTime": sum(rule.health.duration_seconds for rule in report.rules),
        "lastEvaluation": format_date(report.last_ms),
    }


def _encode_rule(report: RuleReport, with_alerts: bool, identity: Mapping[str, str]) -> Json:
    rule, health = report.rule, report.health
    encoded: Json = {"name": rule.name, "query": rule.expr, "labels": {n: template.text for n, template in rule.labels}}
    if rule.kind == "alert":
        active = [alert for alert in report.alerts if alert.state is not AlertState.RESOLVED]
        encoded |= {
            "state": _worst_state(active),
            "duration": rule.for_ms / 1000,
            "keepFiringFor": rule.keep_firing_for_ms / 1000,
            "annotations": {name: template.text for name, template in rule.annotations},
            "alerts": [_encode_alert(alert, identity) for alert in active] if with_alerts else [],
        }
    if health.error:
        encoded["lastError"] = health.error
    return encoded | {
        "health": health.health,
        "evaluationTime": health.duration_seconds,
        "lastEvaluation": format_date(health.last_ms),
        "type": "alerting" if rule.kind == "alert" else "recording",
    }


def _worst_state(active: Iterable[Alert]) -> str:
    states = {alert.state for alert in active}
    return next((state.value for state in (AlertState.FIRING, AlertState.PENDING) if state in states), "inactive")


def _encode_alert(alert: Alert, identity: Mapping[str, str]) -> Json:
    return dict(_iter_alert_fields(alert, identity))


def _iter_alert_fields(alert: Alert, identity: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    yield "labels", {**identity, **dict(alert.labels)}
    yield "annotations", dict(alert.annotations)
    yield "state", alert.state.value
    yield "activeAt", format_date(alert.active_at_ms)
    if alert.keep_firing_since_ms is not None:
        yield "keepFiringSince", format_date(alert.keep_firing_since_ms)
    yield "value", format_scientific(alert.value)


def format_date(ms: int | None) -> str:
    """Formats a time as RFC 3339, with milliseconds unless they are zero."""
    if ms is None:
        return _NEVER
    integer, fraction = divmod(ms, 1000)
    text = datetime.fromtimestamp(integer, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:03}".rstrip("0") + "Z" if fraction else f"{text}Z"
