"""
The living state of rules: which group is due, what each rule gave, which alerts there are.

After Prometheus' rules/group.go and manager.go. A group's rules run in order at the same time, later ones see what
earlier ones recorded. A late tick is skipped, never caught up with. A query's error leaves everything as it was.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from collectors import Labels, Metric, Sample, gauge
from rules.alert_restore import Kept, adopted, keys, restored
from rules.alerts import Alert, Terms, advance, live
from rules.dependencies import sources
from rules.history.history import RECORDED, History
from rules.outcome import Moment, RuleError, alert_samples, found_alerts, recorded, result_of
from rules.promql import Query
from rules.rulefile import Group, Rule, RuleSet

__all__ = ["RuleHealth", "RuleSet", "Rules"]

JITTER_MS = 50  # how much a tick may come early and still count for its slot


@dataclass(frozen=True, slots=True)
class RuleHealth:
    """How one rule fares; `error` is of its last evaluation, empty where that was well."""

    file: str
    group: str
    name: str
    kind: str
    health: str = "unknown"
    """`unknown` before the first evaluation, then `ok` or `err`."""
    error: str = ""
    last_ms: int | None = None
    duration_seconds: float = 0.0
    series: int = 0
    """How many elements the query gave: always 0 points at a rule that matches nothing."""
    fresh: bool = True
    """False where a source of the query was silent."""


class RuleReport(NamedTuple):
    """One rule with how it fares and the alerts it has, resolved ones included."""

    rule: Rule
    health: RuleHealth
    alerts: tuple[Alert, ...]


class GroupReport(NamedTuple):
    """One group with its rules, the interval it really has, and when it was last evaluated."""

    group: Group
    interval_ms: int
    last_ms: int | None
    rules: tuple[RuleReport, ...]


@dataclass
class _RuleState:
    rule: Rule
    metric: Metric
    health: RuleHealth
    sampling_group: str = ""
    """The group its series are recorded under; kept over reloads, because History remembers who owns a series."""
    active: dict[Labels, Alert] = field(default_factory=dict)
    elders: frozenset[Labels] = frozenset()
    """Which of these came back after a restart: they may be from before rules saw the identity."""
    wrote: bool = False
    """Whether its last evaluation left live series."""
    spoke: bool = True
    """Whether every source of its own query spoke at its last evaluation."""
    sources: tuple[_RuleState, ...] = ()
    """The recording rules it builds on, directly or not."""

    @property
    def sampled_names(self) -> set[str]:
        """The metrics it comes from at last, without those that rules record."""
        states = (self, *self.sources)
        return {name for state in states for name in state.rule.query.names} - {
            state.rule.name for state in self.sources
        }

    @property
    def window_ms(self) -> int:
        """How much of the past it needs, that of the rules it builds on included."""
        return self.rule.query.window_ms + max((state.rule.query.window_ms for state in self.sources), default=0)

    def shift(self, delta_ms: int) -> None:
        self.active = {labels: alert.shifted(delta_ms) for labels, alert in self.active.items()}
        last_ms = self.health.last_ms
        self.health = replace(self.health, last_ms=None if last_ms is None else last_ms + delta_ms)


@dataclass
class _GroupState:
    group: Group
    interval_ms: int
    rules: list[_RuleState]
    next_ms: int | None = None
    last_ms: int | None = None

    def due(self, now_ms: int) -> bool:
        if self.last_ms is not None and now_ms <= self.last_ms:
            return False
        return self.next_ms is None or now_ms >= self.next_ms - _slack(self.interval_ms)

    def done(self, now_ms: int) -> None:
        self.last_ms = now_ms
        self.next_ms = following(now_ms, self.interval_ms)

    def shift(self, delta_ms: int) -> None:
        self.last_ms = None if self.last_ms is None else self.last_ms + delta_ms
        self.next_ms = None if self.next_ms is None else self.next_ms + delta_ms
        for state in self.rules:
            state.shift(delta_ms)


def following(now_ms: int, interval_ms: int) -> int:
    """
    The start of the slot after the one that an evaluation at now_ms counts for; slots are multiples of the interval.

    One that comes just before a slot counts for it, or ticks that jitter around a slot would be dropped every other
    time.
    """
    start = (now_ms // interval_ms + 1) * interval_ms
    return start if start - now_ms > _slack(interval_ms) // 2 else start + interval_ms


def _slack(interval_ms: int) -> int:
    return min(JITTER_MS, interval_ms // 20)


class Rules:
    """A RuleSet over time: evaluate it each tick, ask it for alerts and health."""

    def __init__(
        self,
        rule_set: RuleSet,
        *,
        interval_ms: int,
        external_labels: Mapping[str, str],
        external_url: str,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`interval_ms` is of groups without one of their own; `clock` gives seconds, for how long rules take."""
        self.rule_set = rule_set
        self.interval_ms = interval_ms
        self.external_labels = dict(external_labels)
        self.external_url = external_url
        self._clock = clock
        self._ended: tuple[str, ...] = ()
        self._groups = [
            _GroupState(group, group.interval_ms or interval_ms, [_new_state(group, rule) for rule in group.rules])
            for group in rule_set.groups
        ]
        _connect(self._states)
        self._by_key = dict(zip(keys(rule_set.rules), self._states, strict=True))
        _name(self._groups, set())

    @property
    def _states(self) -> list[_RuleState]:
        return [state for group in self._groups for state in group.rules]

    def evaluate(self, history: History, now_ms: int, *, every: bool = False) -> None:
        """Evaluates the groups that are due, or every group, and records what they give; raises nothing of a rule's."""
        for sampling_group in self._ended:
            history.record(sampling_group, now_ms, ())
        self._ended = ()
        for state in self._groups:
            if every or state.due(now_ms):
                self._evaluate_group(state, history, now_ms)

    def _evaluate_group(self, state: _GroupState, history: History, now_ms: int) -> None:
        moment = Moment(history, now_ms, state.group, state.interval_ms, self.external_labels, self.external_url)
        for rule_state in state.rules:
            begun = self._clock()
            outcome = _outcome(rule_state, moment)
            seconds = self._clock() - begun
            rule_state.health = replace(rule_state.health, **outcome, last_ms=now_ms, duration_seconds=seconds)
        state.done(now_ms)

    def alerts(self) -> tuple[Alert, ...]:
        """Pending, firing, and resolved for up to 15 minutes, in the order of the rules."""
        return tuple(alert for group in self._groups for state in group.rules for alert in state.active.values())

    def window_ms(self, query: Query) -> int:
        """How much of the past a query needs, that of the recording rules it builds on included."""
        recorders = (state for state in self._states if state.rule.kind == "record" and state.rule.name in query.names)
        return query.window_ms + max((state.window_ms for state in recorders), default=0)

    def kept(self) -> tuple[Kept, ...]:
        """What must outlive the process, in the order of the rules."""
        return tuple(Kept(key, alert) for key, state in self._by_key.items() for alert in state.active.values())

    def restore(self, kept: Iterable[Kept], now_ms: int, saved_ms: int) -> int:
        """Goes on, before the first evaluation, with what was kept at saved_ms; returns how many alerts came back."""
        count = 0
        for key, alert in kept:
            state = self._by_key.get(key)
            if state is not None and state.rule.kind == "alert":
                state.active[alert.labels] = restored(alert, now_ms, saved_ms)
                state.elders |= {alert.labels}
                count += 1
        return count

    def sampling_groups(self) -> tuple[str, ...]:
        """The groups of History that the rules record under."""
        return tuple(state.sampling_group for state in self._states)

    def report(self) -> tuple[GroupReport, ...]:
        """Every group with its rules, as the query API shows them."""
        return tuple(
            GroupReport(
                state.group,
                state.interval_ms,
                state.last_ms,
                tuple(RuleReport(each.rule, each.health, tuple(each.active.values())) for each in state.rules),
            )
            for state in self._groups
        )

    @property
    def health(self) -> tuple[RuleHealth, ...]:
        """How each rule fares, in the order of the rules."""
        return tuple(state.health for group in self._groups for state in group.rules)

    def shift(self, delta_ms: int) -> None:
        """The wall clock stepped by delta_ms: every time kept here moves with it, so that durations stay."""
        for group in self._groups:
            group.shift(delta_ms)

    def replaced(self, rule_set: RuleSet) -> Rules:
        """
        The state after a reload: rules of the same kind, name and labels keep their alerts, so `for` keeps running.

        The series of rules that are gone end at the next evaluation; their alerts are dropped without being resolved,
        as Prometheus does.
        """
        after = Rules(
            rule_set,
            interval_ms=self.interval_ms,
            external_labels=self.external_labels,
            external_url=self.external_url,
            clock=self._clock,
        )
        left = [(group, state) for group in self._groups for state in group.rules]
        heirs = [(group, state) for group in after._groups for state in group.rules]
        for _, heir in heirs:
            heir.sampling_group = ""
        for key in (_itself, _identity, _series):
            heirs, left = _inherit(heirs, left, key)
        leaving = {state.sampling_group for _, state in left} | set(self._ended)
        _name(after._groups, leaving)
        after._ended = (*self._ended, *(state.sampling_group for _, state in left if state.wrote))
        before = {_place(group): group for group in self._groups}
        for group in after._groups:
            if (old := before.get(_place(group))) is not None:
                group.last_ms = old.last_ms
                group.next_ms = old.next_ms if old.interval_ms == group.interval_ms else None
        return after


def _new_state(group: Group, rule: Rule) -> _RuleState:
    metric = gauge(rule.name, f"Recorded by a rule: {' '.join(rule.expr.split())}")
    return _RuleState(rule, metric, RuleHealth(group.file, group.name, rule.name, rule.kind))


def _connect(states: list[_RuleState]) -> None:
    # Without a bound: that was asked about when the files were read, where it can be said to somebody.
    for state, found in zip(states, sources([state.rule for state in states], sys.maxsize), strict=True):
        state.sources = tuple(states[index] for index in found)


def _name(groups: list[_GroupState], taken: set[str]) -> None:
    """Gives each rule that has none a sampling group nobody else has or is about to leave."""
    taken |= {state.sampling_group for group in groups for state in group.rules}
    numbers: dict[str, int] = {}
    for group in groups:
        for state in group.rules:
            if not state.sampling_group:
                name = f"{RECORDED}{group.group.file};{group.group.name};{state.rule.name}"
                state.sampling_group = _unused(name, taken, numbers)
                taken.add(state.sampling_group)


def _unused(name: str, taken: set[str], numbers: dict[str, int]) -> str:
    candidate = name
    while candidate in taken:
        numbers[name] = numbers.get(name, 1) + 1
        candidate = f"{name}#{numbers[name]}"
    return candidate


def _outcome(state: _RuleState, moment: Moment) -> dict[str, Any]:
    try:
        state.spoke = state.rule.query.fresh(moment.history, moment.at_ms)
        fresh = state.spoke and all(source.spoke for source in state.sources)
        series = _alerting(state, moment, fresh) if state.rule.kind == "alert" else _recording(state, moment)
    except RuleError as error:
        return {"health": "err", "error": str(error)}
    except Exception as error:  # a fault in evaluating one rule must not take the others and the tick with it
        return {"health": "err", "error": f"internal error: {type(error).__name__}: {error}"}
    return {"health": "ok", "error": "", "series": series, "fresh": fresh}


def _alerting(state: _RuleState, moment: Moment, fresh: bool) -> int:
    rule, limit = state.rule, moment.group.limit
    vector = result_of(rule, moment)
    terms = Terms(rule.for_ms, rule.keep_firing_for_ms, moment.now_ms, fresh)
    since = [alert.restored_ms for alert in state.active.values() if alert.restored_ms is not None]
    if since:
        heard = all(moment.history.heard(name, min(since)) for name in state.sampled_names)
        terms = replace(terms, window_ms=state.window_ms + moment.group.query_offset_ms, heard=heard)
    found = found_alerts(rule, vector, moment)
    state.elders = state.elders.intersection(state.active)
    before = adopted(state.active, state.elders, found, moment.history.identity)
    state.active = advance(before, found, terms)
    if 0 < limit < (count := live(state.active)):
        state.active = {}
        raise RuleError(f"exceeded limit of {limit} with {count} alerts")
    _write(state, moment, alert_samples(state.active))
    return len(vector)


def _recording(state: _RuleState, moment: Moment) -> int:
    vector = result_of(state.rule, moment)
    _write(state, moment, recorded(state.rule, state.metric, vector, moment.group.limit))
    return len(vector)


def _write(state: _RuleState, moment: Moment, samples: list[Sample]) -> None:
    """History ends the series that are not among the samples; a rule that never gave one needs no row."""
    if samples or state.wrote:
        moment.history.record(state.sampling_group, moment.at_ms, samples)
    state.wrote = bool(samples)


_Placed = tuple[_GroupState, _RuleState]


def _itself(placed: _Placed) -> object:
    return _place(placed[0]), _identity(placed)


def _identity(placed: _Placed) -> object:
    return placed[1].rule.identity


def _series(placed: _Placed) -> object:
    """Not the same rule any more, but its series go on in the same sampling group."""
    return _place(placed[0]), placed[1].rule.name, placed[1].rule.kind


def _place(group: _GroupState) -> tuple[str, str]:
    return group.group.file, group.group.name


def _inherit(
    heirs: list[_Placed], left: list[_Placed], key: Callable[[_Placed], object]
) -> tuple[list[_Placed], list[_Placed]]:
    """Each takes over from the first rule left of the same key; gives the heirs that found none, and what is left."""
    waiting: dict[object, deque[_RuleState]] = {}
    for old in left:
        waiting.setdefault(key(old), deque()).append(old[1])
    alone = []
    for placed in heirs:
        if same := waiting.get(key(placed)):
            _take_over(placed[1], same.popleft(), key is not _series)
        else:
            alone.append(placed)
    still = {id(state) for states in waiting.values() for state in states}
    return alone, [old for old in left if id(old[1]) in still]


def _take_over(heir: _RuleState, old: _RuleState, alerts: bool) -> None:
    heir.wrote, heir.sampling_group, heir.spoke = old.wrote, old.sampling_group, old.spoke
    if alerts:
        heir.active, heir.elders = old.active, old.elders
        heir.health = replace(old.health, file=heir.health.file, group=heir.health.group)
