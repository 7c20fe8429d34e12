"""The live view of `run`: an overview read from inside the agent, shown on the screen that the terminal allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from agent.console.live_table import Screen
from agent.console.overview import SPAN, STEP, AlertRecord, InstantSample, Overview, Trail, read_overview
from agent.console.panels import Panel, load_panels
from agent.console.rows import build_rows
from rules import promql
from rules.alerts import Alert, AlertState
from rules.history.history import History

_compile = lru_cache(maxsize=256)(promql.compile)


@dataclass(frozen=True)
class HostContext:
    """The parts of the agent that the view reads; functions run on the event loop, once per view."""

    history: History
    alerts: Callable[[], Iterable[Alert]]
    pacing: Callable[[], Iterable[str]]
    """Returns one sentence for each paced engine."""
    learning_progress: Callable[[str], float]
    """Returns the learnt share (0 to 1) of an engine's baseline."""
    identity: Mapping[str, str]
    version: str
    has_canary: bool = False


class HostView:
    """Shows the host on a screen; without a screen it does nothing."""

    def __init__(self, screen: Screen | None, context: HostContext) -> None:
        self._screen = screen
        self._context = context

    @cached_property
    def _panels(self) -> tuple[Panel, ...]:
        return load_panels()  # read with the first view: a service has no screen and needs none

    def show(self, now_ms: int) -> None:
        """Shows the host at `now_ms` when the screen is due."""
        if self._screen is not None and self._screen.is_due():
            self._screen.show(build_rows(self.read_overview(now_ms)))

    def read_overview(self, now_ms: int) -> Overview:
        """Reads the host at `now_ms`."""
        context = self._context
        overview = read_overview(
            _HistoryFeed(context, now_ms),
            self._panels,
            now=now_ms / 1000,
            age=0.0,
            host=context.identity.get("instance", ""),
            version=context.version,
        )
        engines = tuple(replace(engine, learnt=context.learning_progress(engine.name)) for engine in overview.engines)
        return replace(
            overview,
            engines=engines,
            canary_starting=context.has_canary and not engines,
            pacing=tuple(context.pacing()),
        )


class _HistoryFeed:
    """Answers queries from History at one moment."""

    def __init__(self, context: HostContext, now_ms: int) -> None:
        self._context = context
        self._now_ms = now_ms

    def query_instant(self, query: str) -> list[InstantSample]:
        """Evaluates a query; one that fails has no series, for the view must not end the agent."""
        try:
            vector = _compile(query).evaluate_at(self._context.history, self._now_ms)
        except promql.PromqlError:
            return []
        return [InstantSample(dict(labels), self._now_ms / 1000, value) for labels, value in vector]

    def query_range(self, query: str, now: float) -> list[tuple[Mapping[str, str], Trail]]:
        """Evaluates a query over the last five minutes; one that fails has no series."""
        end_ms = round(now * 1000)
        try:
            matrix = _compile(query).evaluate_range(self._context.history, end_ms - SPAN * 1000, end_ms, STEP * 1000)
        except promql.PromqlError:
            return []
        rows = zip(matrix.labels, matrix.values.tolist(), matrix.present.tolist(), strict=True)
        return [
            (
                dict(labels),
                tuple(
                    value if is_present and value - value == 0 else None  # neither NaN nor infinite
                    for value, is_present in zip(values, present, strict=True)
                ),
            )
            for labels, values, present in rows
        ]

    def list_alerts(self) -> list[AlertRecord]:
        """Returns the pending and firing alerts of the rules."""
        return [
            AlertRecord(dict(alert.labels), dict(alert.annotations), alert.state.value, alert.active_at_ms / 1000)
            for alert in self._context.alerts()
            if alert.state is not AlertState.RESOLVED
        ]


def is_shown(alert: Alert) -> bool:
    """True while an alert fires; False for Watchdog, which always fires and has the severity `none`."""
    return alert.state is AlertState.FIRING and dict(alert.labels).get("severity") != "none"
