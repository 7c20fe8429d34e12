"""The verdicts that are due: each act that is held is asked about until it has helped, or its time is up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import structlog

from agent import verification
from agent.acts import Act, Event, Phase
from agent.remedybook import Bound
from agent.verification import Ask
from rules import promql
from rules.alerts import Alert, AlertState
from rules.templates import Scope


def verdicts(
    acts: Iterable[Act], book: Mapping[str, Bound], alerts: Iterable[Alert], ask: Ask, now_ms: int
) -> Iterator[Event]:
    """One event for each act on which something can be said now."""
    by_labels = {alert.labels: alert for alert in alerts}
    for act in acts:
        bound = book.get(act.remedy)
        if act.phase is Phase.HELD and not act.verified and bound is not None and act.did_ms is not None:
            verdict = _verdict(act, bound, by_labels.get(act.labels), ask, now_ms)
            if verdict is not None:
                yield verdict


def _verdict(act: Act, bound: Bound, alert: Alert | None, ask: Ask, now_ms: int) -> Event | None:
    assert act.did_ms is not None
    ended = alert is None or (alert.state is AlertState.RESOLVED and alert.fresh)
    over = now_ms - act.did_ms >= bound.settings.verify.within * 1000
    shown = None if bound.verify is None else _shown(bound, act, alert, ask, now_ms)
    if not (shown or ended or over):
        return None
    after = verification.measure(ask)
    judged = verification.judged(shown, ended, over, act.before, after)
    if judged is None:
        return None
    kind, change = judged
    return Event(act.id, kind, "; ".join(filter(None, (act.plan, change))), after=after)


def _shown(bound: Bound, act: Act, alert: Alert | None, ask: Ask, now_ms: int) -> bool:
    assert bound.verify is not None
    value = float("nan") if alert is None else alert.value
    scope = Scope(dict(bound.shown(dict(act.labels))), value, {}, "", now_ms, lambda _: [])
    try:
        return bool(ask(bound.verify.expand(scope)))
    except promql.PromqlError as error:
        reason = str(error)
        structlog.get_logger().warning("the verify expression cannot be asked", remedy=act.remedy, reason=reason)
        return False
