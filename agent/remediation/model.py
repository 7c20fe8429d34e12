"""
What remedies remember, as frozen values: acts under way, attempts, latches, sessions of alerts.

All of it lies in the journal, and nothing else does; what becomes of it is said by agent/remediation/guards.py. Times
are Unix ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal, NamedTuple, TypeVar

from agent.alerting.labels import SOURCE, with_identity
from collectors import Labels
from rules.alerts import Alert
from rules.matchers import Matchers

Rollback = Literal["on_resolve", "on_exit", "never"]
Source = Literal["local", "webhook"]
"""Whose alert it is: our own rules', or posted by an Alertmanager, with labels that anybody may have written."""

HOST = "*"
"""The latch of everything: the budget of the host is spent."""


def overlaps(resource: str, other: str) -> bool:
    """Whether two resources are the same, or one is a part of the other: `governor/3` of `governor`."""
    return resource == other or resource.startswith(f"{other}/") or other.startswith(f"{resource}/")


class Phase(Enum):
    """How far an act has come; one that has ended is no longer there."""

    STARTED = "started"  # the attempt is journalled, nothing has been touched
    WRITING = "writing"  # the prior value is journalled, the write may have happened
    HELD = "held"  # written and read back
    RELEASING = "releasing"  # to be put back


@dataclass(frozen=True, slots=True)
class Remedy:
    """A remedy of the configuration, as far as the guards look at it."""

    name: str
    match: tuple[Matchers, ...]
    """Any of these, and of each all matchers."""
    resource: str
    """What it acts upon: claims and cooldowns are of resources. `governor/3` is a part of `governor`."""
    reversible: bool
    strength: float
    """How restrictive it is: of two claims on a resource the lower one wins."""
    cooldown_ms: int
    max_per_hour: int
    max_attempts: int
    rollback: Rollback = "on_resolve"
    enabled: bool = True
    plausible: tuple[float, float] | None = None
    undo_recipe: str = ""
    """What it takes to put its act back, for the journal."""
    sources: tuple[Source, ...] = ("local",)
    trusted: Matchers = ()
    """What a posted alert's `instance` and the labels that the action may see must be, whole."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One alert that wants a resource held, by one remedy."""

    remedy: str
    labels: Labels
    strength: float
    lost: bool = False


class Measure(NamedTuple):
    """What was seen at one moment, before or after an act; what was not known is absent."""

    ms_per_token: Mapping[str, float]
    """Of each engine."""
    load: Mapping[str, int]
    """Requests at once of each engine, as a power of two."""
    hottest: float | None
    """°C of the hottest DIMM."""
    available: Mapping[str, float] = {}
    """Bytes that each node can still give."""
    shown: tuple[float, ...] | None = None
    """What the remedy's own expression gave, None where it has none."""
    context: Mapping[str, float] = {}
    """KV cache in use of each engine, as a share of all of it for each request at once."""

    @property
    def summary(self) -> str:
        """`r1 124 ms per token; hottest DIMM 78 °C`."""
        engines = [f"{engine} {ms:.0f} ms per token" for engine, ms in sorted(self.ms_per_token.items())]
        return "; ".join(engines + ([] if self.hottest is None else [f"hottest DIMM {self.hottest:.0f} °C"]))


@dataclass(frozen=True, slots=True)
class Act:
    """One engagement, from the attempt until all is as it was; values as JSON text."""

    id: int
    remedy: str
    resource: str
    labels: Labels
    observed: bool
    """Only thought of: nothing is touched."""
    reversible: bool
    phase: Phase
    began_ms: int
    claims: tuple[Claim, ...]
    did_ms: int | None = None
    prior: str | None = None
    ours: tuple[str, ...] = ()
    """What we wrote; two while one takes the other's place."""
    verified: bool = False
    means: str = ""
    plan: str = ""
    """What its plan said."""
    before: Measure | None = None
    trial: Claim | None = None
    """The claim that tightened what was held already, while it is not known whether that helped."""

    @property
    def verdict_key(self) -> tuple[str, Labels]:
        """The remedy and the alert that a verdict is about."""
        return (self.remedy, self.labels) if self.trial is None else (self.trial.remedy, self.trial.labels)

    @property
    def tightest_claim(self) -> Claim:
        """The claim that says what the resource is held at."""
        return min(self.claims, key=lambda claim: claim.strength)

    @property
    def is_lost(self) -> bool:
        """Whether no claim has evidence any more."""
        return all(claim.lost for claim in self.claims)

    @property
    def is_posted(self) -> bool:
        """Whether it is for an alert that was posted."""
        return any(name == SOURCE for name, _ in self.labels)

    @property
    def is_blocking(self) -> bool:
        """Whether it keeps every other act back; what is being put back does not, were that to take for ever."""
        return not self.observed and not self.verified and self.phase is not Phase.RELEASING


@dataclass(frozen=True, slots=True)
class Attempt:
    """An act that was begun: what cooldowns and budgets count."""

    act: int
    remedy: str
    resource: str
    at_ms: int
    """When its effect can begin to show: the attempt, later the moment that it was done."""
    began_ms: int
    observed: bool
    counted: bool = True
    """False where it was refused before anything was touched."""


@dataclass(frozen=True, slots=True)
class Latch:
    """Given up, until somebody resumes it."""

    remedy: str
    labels: Labels
    since_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class AlertEpisode:
    """One alert that one remedy is for, from firing to its fresh end."""

    remedy: str
    labels: Labels
    since_ms: int | None
    """Since when its evidence has been there without a break; None where it is not there now."""
    attempts: int = 0
    failed: bool = False
    told: str = ""
    """Why it is not acted upon, as the audit has it last."""
    lost: bool = False


_Labelled = TypeVar("_Labelled", Act, Claim, Latch, AlertEpisode)


@dataclass(frozen=True, slots=True)
class RemediationState:
    """All that the guards remember."""

    next_id: int = 1
    acts: tuple[Act, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    latches: tuple[Latch, ...] = ()
    misses: Mapping[str, int] = field(default_factory=dict)
    """How often in a row each remedy did not help."""
    sessions: tuple[AlertEpisode, ...] = ()
    pauses: tuple[str, ...] = ()
    resumed_ms: Mapping[str, int] = field(default_factory=dict)
    """When each remedy was last resumed: budgets and evidence count from there."""
    effects: Mapping[str, str] = field(default_factory=dict)
    """What the newest verdict on each remedy said."""

    def shift(self, delta_ms: int) -> RemediationState:
        """The same after the wall clock stepped by delta_ms."""

        def shift_time(at_ms: int | None) -> int | None:
            return None if at_ms is None else at_ms + delta_ms

        acts, attempts, latches, episodes = self.acts, self.attempts, self.latches, self.sessions
        return replace(
            self,
            acts=tuple(replace(act, began_ms=act.began_ms + delta_ms, did_ms=shift_time(act.did_ms)) for act in acts),
            attempts=tuple(
                replace(attempt, at_ms=attempt.at_ms + delta_ms, began_ms=attempt.began_ms + delta_ms)
                for attempt in attempts
            ),
            latches=tuple(replace(latch, since_ms=latch.since_ms + delta_ms) for latch in latches),
            sessions=tuple(replace(episode, since_ms=shift_time(episode.since_ms)) for episode in episodes),
            resumed_ms={name: at_ms + delta_ms for name, at_ms in self.resumed_ms.items()},
        )

    def clamp_times(self, now_ms: int) -> RemediationState:
        """
        The same with no time ahead of now, after a clock that went back.

        All times move together: which came first (an attempt, the resume before it) is what budgets are counted by.
        """
        times = [max(attempt.at_ms, attempt.began_ms) for attempt in self.attempts] + [
            latch.since_ms for latch in self.latches
        ]
        times += [max(act.began_ms, act.did_ms or act.began_ms) for act in self.acts]
        times += [episode.since_ms for episode in self.sessions if episode.since_ms is not None] + [
            *self.resumed_ms.values()
        ]
        return self.shift(min(0, now_ms - max(times, default=now_ms)))

    def with_identity(self, identity: Mapping[str, str]) -> RemediationState:
        """The same with whole labels, which journals of before rules saw the identity do not have."""

        def add_identity(item: _Labelled) -> _Labelled:
            return replace(item, labels=with_identity(item.labels, identity))

        return replace(
            self,
            acts=tuple(
                replace(
                    add_identity(act),
                    claims=tuple(map(add_identity, act.claims)),
                    trial=act.trial and add_identity(act.trial),
                )
                for act in self.acts
            ),
            latches=tuple(map(add_identity, self.latches)),
            sessions=tuple(map(add_identity, self.sessions)),
        )

    def find_act(self, number: int) -> Act | None:
        """The act of that number while it is open."""
        return next((act for act in self.acts if act.id == number), None)

    def with_act(self, act: Act) -> RemediationState:
        """The same with one act changed."""
        return replace(self, acts=tuple(act if other.id == act.id else other for other in self.acts))

    def without_act(self, number: int) -> RemediationState:
        """The same with one act ended."""
        return replace(self, acts=tuple(act for act in self.acts if act.id != number))


class AlertInput(NamedTuple):
    """An alert, and how much of the past its rule looks at."""

    alert: Alert
    window_ms: int = 0
    source: Source = "local"


@dataclass(frozen=True, slots=True)
class DecisionInputs:
    """What the guards are shown at one moment."""

    now_ms: int
    observing: bool
    remedies: tuple[Remedy, ...]
    alerts: tuple[AlertInput, ...]
    max_per_hour: int
    killed: bool = False
    """The kill-switch file is there: nothing is begun, and all that is held is put back."""
    halted: str = ""
    """Why nothing may be begun: the journal cannot be read or written."""
    silenced: frozenset[Labels] = frozenset()
    """The alerts that Alertmanager has silenced, as far as it was asked and answered."""


class EventKind(Enum):
    """What can happen to an act."""

    REFUSED = "refused"  # by its own plan; nothing was touched
    INTENDED = "intended"  # planned: the prior value and the one to be written are known
    DID = "did"  # written, and read back as ours
    FAILED = "failed"
    UNKNOWN = "unknown"  # no answer: it may have been done, or not
    HELPED = "helped"
    USELESS = "useless"
    UNJUDGED = "unjudged"  # nobody can say whether it helped
    RETUNING = "retuning"  # another value is about to be written
    RETUNED = "retuned"
    CHANGED = "changed"  # the value is neither ours nor what was there before
    RESTORED = "restored"
    INTERRUPTED = "interrupted"  # the agent ended meanwhile


class Event(NamedTuple):
    """Something that happened to an act; `says` is a sentence for the audit."""

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
    """The alert's, where it was asked whether to act."""


class Decision(NamedTuple):
    """What follows: the state after, the acts to be begun, those to be put back, and what the audit says."""

    state: RemediationState
    begin: tuple[Act, ...] = ()
    release: tuple[Act, ...] = ()
    entries: tuple[AuditEntry, ...] = ()
