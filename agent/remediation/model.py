"""
The state of the remedies, as frozen values: acts under way, attempts, latches, episodes of alerts.

The journal has all of it and nothing else; agent/remediation/guards.py decides on it. Times are Unix ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal, NamedTuple, TypeVar

from agent.actions import Action, Task
from agent.alerting.identity import SOURCE, with_identity
from agent.config.schema import RemedySettings
from collectors import Labels
from rules.alerts import Alert
from rules.matchers import Matchers
from rules.templates.template import Template

Rollback = Literal["on_resolve", "on_exit", "never"]
Source = Literal["local", "webhook"]
"""The origin of an alert: our own rules, or an Alertmanager's post, whose labels anybody may have written."""

HOST = "*"
"""The latch of everything: the budget of the host is spent."""


def overlaps(resource: str, other: str) -> bool:
    """True if two resources are the same, or one is a part of the other: `governor/3` of `governor`."""
    return resource == other or resource.startswith(f"{other}/") or other.startswith(f"{resource}/")


class Phase(Enum):
    """The progress of an act; an act that has ended is no longer in the state."""

    STARTED = "started"  # the attempt is journalled, nothing has been touched
    WRITING = "writing"  # the prior value is journalled, the write may have happened
    HELD = "held"  # written and read back
    RELEASING = "releasing"  # to be undone


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A remedy of the configuration, bound to its action: the conditions for the guards, and the task."""

    name: str
    match: tuple[Matchers, ...]
    """An alert must meet all matchers of any of these."""
    resource: str
    """The resource acted upon: claims and cooldowns belong to resources. `governor/3` is a part of `governor`."""
    reversible: bool
    strength: float
    """How restrictive the remedy is: of two claims on a resource the lower one wins."""
    cooldown_ms: int
    max_per_hour: int
    max_attempts: int
    rollback: Rollback = "on_resolve"
    enabled: bool = True
    plausible: tuple[float, float] | None = None
    sources: tuple[Source, ...] = ("local",)
    trusted: Matchers = ()
    """The patterns that `instance` and the labels for the action must match in full on a posted alert."""
    settings: RemedySettings
    """The remedy as the operator wrote it."""
    action: Action
    task: Task
    """The task without labels: target and parameters."""
    verify: Template | None = None
    undo_recipe: str = ""
    """The encoded UndoRecipe of its acts, for the journal."""

    def build_task(self, labels: Mapping[str, str]) -> Task:
        """Returns the task for one alert."""
        return replace(self.task, labels=self.select_labels(labels))

    def select_labels(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        """Returns the labels for the action and the verify expression; of a posted alert only those with a pattern."""
        if SOURCE not in labels:
            return labels
        return {name: labels[name] for name in ("alertname", *self.settings.labels) if name in labels}


@dataclass(frozen=True, slots=True)
class Claim:
    """One alert, by one remedy, that needs a resource held."""

    remedy: str
    labels: Labels
    strength: float
    lost: bool = False


class Measure(NamedTuple):
    """The measurements of one moment, before or after an act; unknown values are absent."""

    ms_per_token: Mapping[str, float]
    """For each engine."""
    load: Mapping[str, int]
    """Concurrent requests of each engine, as a power of two."""
    hottest: float | None
    """°C of the hottest DIMM."""
    available: Mapping[str, float] = {}
    """Bytes that each node can still give."""
    expression_values: tuple[float, ...] | None = None
    """The values of the remedy's own expression; None if it has none."""
    context: Mapping[str, float] = {}
    """KV cache in use of each engine, as a share of all of it for each concurrent request."""

    @property
    def summary(self) -> str:
        """Returns a sentence such as `r1 124 ms per token; hottest DIMM 78 °C`."""
        engines = [f"{engine} {ms:.0f} ms per token" for engine, ms in sorted(self.ms_per_token.items())]
        return "; ".join(engines + ([] if self.hottest is None else [f"hottest DIMM {self.hottest:.0f} °C"]))


@dataclass(frozen=True, slots=True)
class Act:
    """One act, from the attempt until everything is undone; values as JSON text."""

    id: int
    remedy: str
    resource: str
    labels: Labels
    observed: bool
    """True in observe mode: nothing is touched."""
    reversible: bool
    phase: Phase
    began_ms: int
    claims: tuple[Claim, ...]
    did_ms: int | None = None
    prior: str | None = None
    ours: tuple[str, ...] = ()
    """The values we wrote; two while one replaces the other."""
    verified: bool = False
    undo_recipe: str = ""
    plan: str = ""
    """The sentence of its plan."""
    before: Measure | None = None
    pending_tightening: Claim | None = None
    """The claim that tightened the held value, until it is known whether that helped."""

    @property
    def verdict_key(self) -> tuple[str, Labels]:
        """The remedy and the alert that a verdict is about."""
        return (
            (self.remedy, self.labels)
            if self.pending_tightening is None
            else (self.pending_tightening.remedy, self.pending_tightening.labels)
        )

    @property
    def tightest_claim(self) -> Claim:
        """The claim that determines the held value."""
        return min(self.claims, key=lambda claim: claim.strength)

    @property
    def is_lost(self) -> bool:
        """True if no claim has evidence any more."""
        return all(claim.lost for claim in self.claims)

    @property
    def is_posted(self) -> bool:
        """True if the act is for a posted alert."""
        return any(name == SOURCE for name, _ in self.labels)

    @property
    def is_blocking(self) -> bool:
        """
        True while the act delays every other act.

        An act being undone does not: an undo may be retried without end.
        """
        return not self.observed and not self.verified and self.phase is not Phase.RELEASING


@dataclass(frozen=True, slots=True)
class Attempt:
    """An act that was begun: the unit of cooldowns and budgets."""

    act: int
    remedy: str
    resource: str
    at_ms: int
    """The time from which its effect can show: the attempt, later the end of the write."""
    began_ms: int
    observed: bool
    counted: bool = True
    """False if it was refused before anything was touched."""


@dataclass(frozen=True, slots=True)
class Latch:
    """A remedy that has given up, until somebody resumes it."""

    remedy: str
    labels: Labels
    since_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class AlertEpisode:
    """One firing of an alert that one remedy is for, until its fresh end."""

    remedy: str
    labels: Labels
    since_ms: int | None
    """The start of its unbroken evidence; None while there is none."""
    attempts: int = 0
    failed: bool = False
    last_reason: str = ""
    """The newest reason against acting in the audit."""
    lost: bool = False


_Labelled = TypeVar("_Labelled", Act, Claim, Latch, AlertEpisode)


@dataclass(frozen=True, slots=True)
class RemediationState:
    """The memory of the guards."""

    next_id: int = 1
    acts: tuple[Act, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    latches: tuple[Latch, ...] = ()
    misses: Mapping[str, int] = field(default_factory=dict)
    """The misses in a row of each remedy."""
    episodes: tuple[AlertEpisode, ...] = ()
    pauses: tuple[str, ...] = ()
    resumed_ms: Mapping[str, int] = field(default_factory=dict)
    """The time each remedy was last resumed: budgets and evidence count from there."""
    effects: Mapping[str, str] = field(default_factory=dict)
    """The newest verdict on each remedy, in words."""

    def shift(self, delta_ms: int) -> RemediationState:
        """Returns the state after the wall clock shifted by delta_ms."""

        def shift_time(at_ms: int | None) -> int | None:
            return None if at_ms is None else at_ms + delta_ms

        acts, attempts, latches = self.acts, self.attempts, self.latches
        return replace(
            self,
            acts=tuple(replace(act, began_ms=act.began_ms + delta_ms, did_ms=shift_time(act.did_ms)) for act in acts),
            attempts=tuple(
                replace(attempt, at_ms=attempt.at_ms + delta_ms, began_ms=attempt.began_ms + delta_ms)
                for attempt in attempts
            ),
            latches=tuple(replace(latch, since_ms=latch.since_ms + delta_ms) for latch in latches),
            episodes=tuple(replace(episode, since_ms=shift_time(episode.since_ms)) for episode in self.episodes),
            resumed_ms={name: at_ms + delta_ms for name, at_ms in self.resumed_ms.items()},
        )

    def clamp_times(self, now_ms: int) -> RemediationState:
        """
        Returns the state with no time ahead of now, after a clock that went back.

        All times move together, since budgets depend on their order (an attempt, the resume before it).
        """
        times = [max(attempt.at_ms, attempt.began_ms) for attempt in self.attempts] + [
            latch.since_ms for latch in self.latches
        ]
        times += [max(act.began_ms, act.did_ms or act.began_ms) for act in self.acts]
        times += [episode.since_ms for episode in self.episodes if episode.since_ms is not None] + [
            *self.resumed_ms.values()
        ]
        return self.shift(min(0, now_ms - max(times, default=now_ms)))

    def with_identity(self, identity: Mapping[str, str]) -> RemediationState:
        """Returns the state with complete labels, which older journals lack."""

        def add_identity(item: _Labelled) -> _Labelled:
            return replace(item, labels=with_identity(item.labels, identity))

        return replace(
            self,
            acts=tuple(
                replace(
                    add_identity(act),
                    claims=tuple(map(add_identity, act.claims)),
                    pending_tightening=act.pending_tightening and add_identity(act.pending_tightening),
                )
                for act in self.acts
            ),
            latches=tuple(map(add_identity, self.latches)),
            episodes=tuple(map(add_identity, self.episodes)),
        )

    def find_act(self, number: int) -> Act | None:
        """Returns the open act of that number."""
        return next((act for act in self.acts if act.id == number), None)

    def with_act(self, act: Act) -> RemediationState:
        """Returns the state with one act changed."""
        return replace(self, acts=tuple(act if other.id == act.id else other for other in self.acts))

    def without_act(self, number: int) -> RemediationState:
        """Returns the state without one act."""
        return replace(self, acts=tuple(act for act in self.acts if act.id != number))


class AlertInput(NamedTuple):
    """An alert, and how much of the past its rule reads."""

    alert: Alert
    window_ms: int = 0
    source: Source = "local"


@dataclass(frozen=True, slots=True)
class DecisionInputs:
    """The inputs of the guards at one moment."""

    now_ms: int
    observing: bool
    remedies: tuple[Remedy, ...]
    alerts: tuple[AlertInput, ...]
    max_per_hour: int
    killed: bool = False
    """The kill-switch file exists: nothing begins, and every held act is undone."""
    halted: str = ""
    """The reason why nothing may begin: the journal cannot be read or written."""
    silenced: frozenset[Labels] = frozenset()
    """The alerts that Alertmanager has silenced, as far as it answered."""


class EventKind(Enum):
    """The events of an act."""

    REFUSED = "refused"  # by its own plan; nothing was touched
    INTENDED = "intended"  # planned: the prior value and the value to be written are known
    DID = "did"  # written, and read back as ours
    FAILED = "failed"
    UNKNOWN = "unknown"  # no answer: it may have been done, or not
    HELPED = "helped"
    USELESS = "useless"
    UNJUDGED = "unjudged"  # no measurement shows whether it helped
    RETUNING = "retuning"  # another value is about to be written
    RETUNED = "retuned"
    CHANGED = "changed"  # the value is neither ours nor the prior one
    RESTORED = "restored"
    INTERRUPTED = "interrupted"  # the agent ended meanwhile


class Event(NamedTuple):
    """An event of an act; `detail` is a sentence for the audit."""

    act: int
    kind: EventKind
    detail: str = ""
    prior: str | None = None
    value: str | None = None
    before: Measure | None = None
    after: Measure | None = None


class AuditEntry(NamedTuple):
    """One line of the audit."""

    at_ms: int
    remedy: str
    labels: Labels
    resource: str
    what: str
    says: str
    observed: bool = False
    act: int = 0
    before: Measure | None = None
    after: Measure | None = None
    value: float | None = None
    """The alert's value, for a decision whether to act."""


class Decision(NamedTuple):
    """The next state, the acts to begin, the acts to undo, and the lines of the audit."""

    state: RemediationState
    begin: tuple[Act, ...] = ()
    release: tuple[Act, ...] = ()
    entries: tuple[AuditEntry, ...] = ()
