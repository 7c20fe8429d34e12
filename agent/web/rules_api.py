"""
The rules and alerts of the query API, as Prometheus shows them.

https://prometheus.io/docs/prometheus/latest/querying/api/#rules
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from agent.web.prometheus_json import value
from agent.web.query_params import BadRequestError, Parameters
from rules import promql
from rules.alerts import Alert, AlertState
from rules.evaluator import GroupReport, RuleReport, Rules

_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time
_KINDS = {"": ("alert", "record"), "alert": ("alert",), "record": ("record",)}

Json = dict[str, Any]


def alerts(rules: Rules, identity: Mapping[str, str]) -> Json:
    """The alerts that are pending or firing."""
    return {"alerts": [_alert(each, identity) for each in rules.alerts() if each.state is not AlertState.RESOLVED]}


def groups(rules: Rules, identity: Mapping[str, str], asked: Parameters) -> Json:
    """The groups and rules that the parameters ask for; raises BadRequestError."""
    chosen = _Choice(asked)
    reports = sorted(rules.report(), key=lambda report: (report.group.file, report.group.name))
    found = [(report, kept) for report in reports if (kept := chosen.rules_of(report)) is not None]
    page, following = _page(found, asked)
    answer: Json = {"groups": [_group(report, kept, chosen.with_alerts, identity) for report, kept in page]}
    return {**answer, "groupNextToken": following} if following else answer


class _Choice:
    """Which rules are asked for."""

    def __init__(self, asked: Parameters) -> None:
        kind = asked.text("type").lower()
        if kind not in _KINDS:
            raise BadRequestError(f'not supported value "{kind}"; expected alert or record')
        self.kinds = _KINDS[kind]
        self.names = set(asked.texts("rule_name[]"))
        self.group_names = set(asked.texts("rule_group[]"))
        self.files = set(asked.texts("file[]"))
        self.with_alerts = asked.text("exclude_alerts").lower() not in ("1", "t", "true")
        try:
            self.matchers = [promql.selector(text) for text in asked.texts("match[]")]
        except promql.PromqlError as error:
            raise BadRequestError(f'invalid parameter "match[]": {error}') from None
        self.everything = not (self.names or self.matchers or len(self.kinds) < len(_KINDS[""]))

    def rules_of(self, report: GroupReport) -> list[RuleReport] | None:
        """The rules of a group that are asked for; None where the group is not."""
        group = report.group
        if (self.group_names and group.name not in self.group_names) or (self.files and group.file not in self.files):
            return None
        kept = [each for each in report.rules if self._has(each)]
        return kept if kept or self.everything else None

    def _has(self, report: RuleReport) -> bool:
        rule = report.rule
        if rule.kind not in self.kinds or (self.names and rule.name not in self.names):
            return False
        labels = {name: template.text for name, template in rule.labels}
        return not self.matchers or any(
            all(matcher.test(labels.get(matcher.label, "")) for matcher in matchers) for matchers in self.matchers
        )


_Found = list[tuple[GroupReport, list[RuleReport]]]


def _page(found: _Found, asked: Parameters) -> tuple[_Found, str]:
    """As many groups as `group_limit` says, from the token on, and the token of the next page."""
    limit, token = asked.limit("group_limit"), asked.text("group_next_token")
    tokens = [hashlib.sha1(f"{each.group.file};{each.group.name}".encode()).hexdigest() for each, _ in found]
    if token and not limit:
        raise BadRequestError("group_limit needs to be set in order to paginate over the groups")
    if token and token not in tokens:
        raise BadRequestError(f'invalid group_next_token "{token}": the rules may have changed; begin again without it')
    first = tokens.index(token) if token else 0
    last = first + limit if limit else len(found)
    return found[first:last], tokens[last] if last < len(found) else ""


def _group(report: GroupReport, rules: list[RuleReport], with_alerts: bool, identity: Mapping[str, str]) -> Json:
    return {
        "name": report.group.name,
        "file": report.group.file,
        "rules": [_rule(each, with_alerts, identity) for each in rules],
        "interval": report.interval_ms / 1000,
        "limit": report.group.limit,
        "evaluationTime": sum(each.health.duration_seconds for each in report.rules),
        "lastEvaluation": date(report.last_ms),
    }


def _rule(report: RuleReport, with_alerts: bool, identity: Mapping[str, str]) -> Json:
    rule, health = report.rule, report.health
    shown: Json = {"name": rule.name, "query": rule.expr, "labels": {n: template.text for n, template in rule.labels}}
    if rule.kind == "alert":
        live = [alert for alert in report.alerts if alert.state is not AlertState.RESOLVED]
        shown |= {
            "state": _state(live),
            "duration": rule.for_ms / 1000,
            "keepFiringFor": rule.keep_firing_for_ms / 1000,
            "annotations": {name: template.text for name, template in rule.annotations},
            "alerts": [_alert(alert, identity) for alert in live] if with_alerts else [],
        }
    if health.error:
        shown["lastError"] = health.error
    return shown | {
        "health": health.health,
        "evaluationTime": health.duration_seconds,
        "lastEvaluation": date(health.last_ms),
        "type": "alerting" if rule.kind == "alert" else "recording",
    }


def _state(live: Iterable[Alert]) -> str:
    states = {alert.state for alert in live}
    return next((state.value for state in (AlertState.FIRING, AlertState.PENDING) if state in states), "inactive")


def _alert(alert: Alert, identity: Mapping[str, str]) -> Json:
    return dict(_of_alert(alert, identity))


def _of_alert(alert: Alert, identity: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    yield "labels", {**identity, **dict(alert.labels)}
    yield "annotations", dict(alert.annotations)
    yield "state", alert.state.value
    yield "activeAt", date(alert.active_at_ms)
    if alert.keep_firing_since_ms is not None:
        yield "keepFiringSince", date(alert.keep_firing_since_ms)
    yield "value", scientific(alert.value)


def scientific(number: float) -> str:
    """A number as Go's %e with the fewest digits: `1e+00`, `2.5e-03`."""
    plain = value(number)
    if plain in ("NaN", "+Inf", "-Inf"):
        return plain
    # From the digits of repr: rounding the number itself to as many may give another one that does not read back.
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    first, *rest = map(str, digits)
    power = len(rest) + int(exponent)
    return f"{'-' * sign}{first}{'.' * bool(rest)}{''.join(rest)}e{power:+03d}"


def date(ms: int | None) -> str:
    """RFC 3339, with as many digits of a second as it has."""
    if ms is None:
        return _NEVER
    whole, fraction = divmod(ms, 1000)
    text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:03}".rstrip("0") + "Z" if fraction else f"{text}Z"
