"""The verdicts that are due: each act that is held is asked about until it has helped, or its time is up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import structlog

from agent.remediation import verification
from agent.remediation.catalog import Bound
from agent.remediation.model import Act, Event, Kind, Measure, Phase
from agent.remediation.verification import Ask, Evidence
from collectors import Labels
from rules import promql
from rules.alerts import Alert, AlertState
from rules.templates.template import Scope


class Present(NamedTuple):
    """What verdicts rest on."""

    now_ms: int
    alerts: Mapping[Labels, Alert]
    ask: Ask
    heard: Callable[[Iterable[str], int], bool]
    """Whether metrics, by their names, have been sampled since a time."""


def verdicts(acts: Iterable[Act], book: Mapping[str, Bound], present: Present) -> Iterator[Event]:
    """One event for each act on which something can be said now."""
    for act in acts:
        if act.phase is not Phase.HELD or act.verified or act.did_ms is None:
            continue
        name, _ = act.tried
        # Without a verdict it would keep every other remedy back for ever.
        gone = Event(act.id, Kind.UNJUDGED, f"{name} has left the configuration")
        verdict = _verdict(act, act.did_ms, book[name], present) if name in book else gone
        if verdict is not None:
            yield verdict


def measured(act: Act, book: Mapping[str, Bound], present: Present) -> Measure:
    """What there is before an act, or before what is held is tightened."""
    name, labels = act.tried
    shown = _asked(book[name], labels, present).shown if name in book else None
    return verification.measure(present.ask, shown)


def _verdict(act: Act, did_ms: int, bound: Bound, present: Present) -> Event | None:
    _, labels = act.tried
    asked, age_ms = _asked(bound, labels, present), present.now_ms - did_ms
    least_ms = verification.WINDOW_MS if asked.shown is None else asked.window_ms
    evidence = Evidence(
        None if asked.shown is None else bool(asked.shown),
        newer=age_ms >= asked.window_ms and present.heard(asked.names, did_ms + 1),
        alert=_alert(present.alerts.get(labels), did_ms, present),
        over=age_ms >= max(bound.settings.verify.within * 1000, least_ms),
    )
    if not (asked.shown or evidence.alert == "ended" or evidence.over):
        return None
    after = verification.measure(present.ask, asked.shown)
    judged = verification.judged(evidence, act.before, after)
    if judged is None:
        return None
    kind, says = judged
    return Event(act.id, kind, "; ".join(filter(None, (act.plan, says))), after=after)


def _alert(alert: Alert | None, did_ms: int, present: Present) -> Literal["fires", "ended", "unknown"]:
    if alert is None or not alert.fresh:
        return "unknown"
    if alert.state is AlertState.FIRING:
        return "fires"
    ended_since = alert.state is AlertState.RESOLVED and (alert.resolved_at_ms or 0) > did_ms
    return "ended" if ended_since and present.heard(promql.compile(alert.expr).names, did_ms + 1) else "unknown"


class _Asked(NamedTuple):
    """A remedy's expression for one alert: what it gives (None where it has none), and what that rests on."""

    shown: tuple[float, ...] | None
    window_ms: int = 0
    names: frozenset[str] = frozenset()


def _asked(bound: Bound, labels: Labels, present: Present) -> _Asked:
    if bound.verify is None:
        return _Asked(None)
    alert = present.alerts.get(labels)
    value = float("nan") if alert is None else alert.value
    text = bound.verify.expand(Scope(dict(bound.shown(dict(labels))), value, {}, "", present.now_ms, lambda _: []))
    try:
        query = promql.compile(text)
        return _Asked(tuple(each for _, each in present.ask(text)), query.window_ms, query.names)
    except promql.PromqlError as error:
        reason = str(error)
        structlog.get_logger().warning("the verify expression cannot be asked", remedy=bound.remedy.name, reason=reason)
        return _Asked(())
