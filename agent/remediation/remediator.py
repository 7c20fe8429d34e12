"""
Remedies at work: after each tick the guards are asked, what they decide is journalled, and then it is done.

Nothing here decides; nothing here waits. The order is law: the attempt is in the journal before a plan is made, the
prior value before the write, and all of it synced; actions run in threads of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import structlog

from agent import judging
from agent.actions import Action, Moment, Steered, Task
from agent.config.schema import Remediation
from agent.remediation import catalog, executor, guards, hand, transitions
from agent.remediation.catalog import Bound
from agent.remediation.context import Surroundings
from agent.remediation.crash_rollback import DeadMan
from agent.remediation.executor import Errands
from agent.remediation.journal import Journal, JournalError, boot_now
from agent.remediation.model import Act, Entry, Event, Kind, Phase, Seen, State, Step, World
from collectors import Labels
from rules.alerts import Alert, AlertState

AGAIN = 5.0  # seconds until what could not be put back is tried again
RENEWALS = 3  # in each ttl of a lease, so that two may fail
MOVES = (Kind.RETUNING.value, Kind.RETUNED.value)  # not in the audit: a controller moves each second
TELL_EVERY = 60.0  # seconds between two lines of the audit on why what is held is moved
FAREWELL = 3.0  # seconds for what is put back when the agent ends


class Remedies:
    """All remedies of one agent."""

    def __init__(self, around: Surroundings, settings: Remediation, book: Iterable[Bound]) -> None:
        self.around = around
        self.halted = ""
        self._log = structlog.get_logger()
        self._errands = Errands(self._happened)
        self._journal: Journal | None = None
        try:
            self._journal = Journal(around.folder, lambda: boot_now(around.clock.now_ms()))
        except JournalError as error:
            self.halted = str(error)
            self._log.error("no remedy acts", reason=self.halted)
        self.state = State() if self._journal is None else self._journal.state.whole(around.identity)
        self._journalled: State | None = self.state
        self._memory: dict[int, Any] = {}
        self._touched: dict[int, float] = {}
        self._began = around.clock.monotonic()
        self._told: dict[int, tuple[str, float]] = {}
        self._failing: dict[int, set[tuple[Phase, str]]] = {}
        self.counts: dict[tuple[str, str], int] = {}
        self._dead_man = DeadMan(around.folder, around.hand, around.token_file)
        self.replace(settings, book)

    def replace(self, settings: Remediation, book: Iterable[Bound]) -> None:
        """Takes another configuration over; what is held is looked at anew at the next tick."""
        self.settings = settings
        self.book = {bound.remedy.name: bound for bound in book}
        self.pacing_terms = catalog.pacing_terms(self.book.values())

    @property
    def observing(self) -> bool:
        """Whether nothing is really done; never below a picture of a machine, whose alerts are not this one's."""
        return self.settings.mode == "observe" or os.path.abspath(self.around.root) != "/"

    @property
    def killed(self) -> bool:
        """Whether the kill-switch file is there."""
        return os.path.exists(self.settings.pause_file)

    def duties(self) -> dict[str, float]:
        """The duty that each paced engine is held at."""
        held = [act for act in self.state.acts if act.phase is Phase.HELD and not act.observed and act.ours]
        names = {act.id: catalog.paced_engine(act.means) for act in held}
        return {name: float(json.loads(act.ours[-1])) for act in held if (name := names[act.id])}

    def steered(self) -> Iterator[tuple[Act, Steered]]:
        """What is moved while it is held, with why it is as it is."""
        for act in self.state.acts:
            memory = self._memory.get(act.id)
            if isinstance(memory, Steered):
                yield act, memory

    def recover(self) -> None:
        """At the start: what the process before left half-way is ended as the journal has it."""
        for act in self.state.acts:
            self._happened(Event(act.id, Kind.INTERRUPTED, f"the agent ended while it was {act.phase.value}"))

    def stepped(self, delta_ms: int) -> None:
        """The wall clock stepped."""
        self.state = self.state.shifted(delta_ms)

    def tick(self, now_ms: int) -> None:
        """After notify: asks the guards, and sees to what is held."""
        try:
            self._look(now_ms)
        except Exception as error:  # a fault in a remedy must not take the tick; what is held then ends as leases do
            self._log.exception("remedies failed", reason=f"{type(error).__name__}: {error}")

    def _look(self, now_ms: int) -> None:
        self._errands.expire(self.around.clock.monotonic())
        self._dead_man.see(bound.action for bound in self.book.values() if bound.remedy.enabled and not self.observing)
        present = self.around.present(now_ms)
        for event in judging.verdicts(self.state.acts, self.book, present):
            self._happened(event)
        self._take(guards.decide(self.state, self._world(now_ms)))
        for act in self.state.acts:
            if act.phase is Phase.HELD and act.reversible and not act.observed:
                self._try_to_hold(act, now_ms)
            elif act.phase is Phase.RELEASING:
                self._put_back(act)
        self._forget({act.id for act in self.state.acts})

    def _forget(self, living: set[int]) -> None:
        """What was kept of acts that have ended."""
        kept: tuple[dict[int, Any], ...] = (self._memory, self._touched, self._told, self._failing)
        for of_acts in kept:
            for number in [number for number in of_acts if abs(number) not in living]:
                del of_acts[number]

    def _world(self, now_ms: int) -> World:
        alerts = tuple(self.around.seen(now_ms))
        return World(
            now_ms=now_ms,
            observing=self.observing,
            remedies=tuple(bound.remedy for bound in self.book.values()),
            alerts=alerts,
            max_per_hour=self.settings.max_per_hour,
            killed=self.killed,
            halted=self.halted,
            silenced=frozenset(seen.alert.labels for seen in alerts if self.around.silenced(seen.alert.labels)),
        )

    def wants(self, alert: Alert) -> bool:
        """Whether a remedy is for an alert that an Alertmanager posts."""
        seen = Seen(alert, source="webhook")
        return any(bound.remedy.enabled and guards.matches(bound.remedy, seen) for bound in self.book.values())

    def _happened(self, event: Event) -> None:
        act = self.state.act(event.act)
        if act is not None and act.phase in (Phase.HELD, Phase.RELEASING) and self._nothing_new(act, event):
            return
        now_ms = self.around.clock.now_ms()
        if act is not None and act.before is None and event.kind in (Kind.INTENDED, Kind.RETUNING):
            event = event._replace(before=judging.measured(act, self.book, self.around.present(now_ms)))
        self._take(transitions.apply(self.state, event, now_ms))

    def _nothing_new(self, act: Act, event: Event) -> bool:
        """A renewal that went as the one before is no line in the audit, nor what could not be put back once more."""
        if event.kind not in (Kind.FAILED, Kind.UNKNOWN):
            failing = self._failing.pop(act.id, None)
            return not failing and event.kind is Kind.RETUNED and act.ours == (event.value,)
        told = self._failing.setdefault(act.id, set())
        failure = "" if act.phase is Phase.HELD else event.says
        known = (act.phase, failure) in told
        told.add((act.phase, failure))
        return known

    def _take(self, step: Step) -> None:
        """Makes the state so, has it journalled, and goes on when it is."""
        self.state = step.state
        for entry in step.entries:
            self._tell(entry)
        changed = self.state != self._journalled or bool(step.entries)
        if self._journal is None or not (changed or self.halted):
            return
        self._journalled = self.state
        event_loop = asyncio.get_running_loop()

        def written(fault: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has closed: the agent is ending
                event_loop.call_soon_threadsafe(self._journalled_or_not, step, fault)

        kept = [entry for entry in step.entries if entry.what not in MOVES]
        self._journal.commit(self.state, kept, written)

    def _journalled_or_not(self, step: Step, fault: str | None) -> None:
        if fault and not self.halted:
            self._log.error("no remedy acts until the journal can be written; free its disk", reason=fault)
        elif self.halted and not fault:
            self._log.info("the journal is written again")
        self.halted = fault or ""
        for act in step.begin:
            if fault:
                self._happened(Event(act.id, Kind.FAILED, fault))
            else:
                self._plan(act)
        for act in step.release:
            self._put_back(act)
        writing = {entry.act for entry in step.entries if entry.what in (Kind.INTENDED.value, Kind.RETUNING.value)}
        for act in (act for act in step.state.acts if act.id in writing):
            if fault:
                self._happened(Event(act.id, Kind.FAILED, fault))
            else:
                self._write(act)

    def _plan(self, act: Act) -> None:
        bound = self.book.get(act.remedy)
        if bound is None:
            self._happened(Event(act.id, Kind.REFUSED, "the remedy has left the configuration"))
            return
        missing = functools.partial(self._missing, bound.action, act.observed)
        job = executor.planning(act, bound.action, bound.task_for(dict(act.labels)), self.around.access(), missing)
        self._errands.run(act.id, job, self.around.clock.monotonic())

    def _missing(self, action: Action, observed: bool) -> str:
        """Why the hand cannot do it; in observe a hand is not needed. Asked in a thread."""
        return "" if observed or not action.VERBS else hand.lacking(self.around.hand, action.VERBS)

    def _write(self, act: Act) -> None:
        now = self.state.act(act.id)
        if now is None or now.phase not in (Phase.WRITING, Phase.HELD):
            return
        if now.phase is Phase.WRITING and (why := self._stopped(now)):
            self._happened(Event(act.id, Kind.REFUSED, f"{why}; nothing was written"))
            return
        if act.observed:
            self._happened(Event(act.id, Kind.DID, "only observed", value=act.ours[-1]))
            return
        self._do(now, json.loads(now.ours[-1]), Kind.DID if now.phase is Phase.WRITING else Kind.RETUNED)

    def _stopped(self, act: Act) -> str:
        return guards.stopped(self.state, self._world(self.around.clock.now_ms()), act)

    def _do(self, act: Act, wanted: Any, done: Kind) -> None:
        action, task = self._means(act)
        job = executor.doing(act, action, task, self.around.access(), wanted, done)
        if self._errands.run(act.id, job, self.around.clock.monotonic()):
            self._touched[act.id] = self.around.clock.monotonic()

    def _try_to_hold(self, act: Act, now_ms: int) -> None:
        try:
            self._hold(act, now_ms)
        except Exception as error:  # one action's fault must not cost the others their leases; its own then ends
            reason = f"{type(error).__name__}: {error}"
            self._log.error("what is held cannot be seen to", remedy=act.remedy, reason=reason)

    def _hold(self, act: Act, now_ms: int) -> None:
        """Renews a lease when it is due, and moves the value where its action wants it moved."""
        if self._errands.busy(act.id) or not act.claims:
            return
        action, task = self._means(act)
        moment = Moment(now_ms, json.loads(act.ours[-1]), act.lost, self.around.ask, self._beside(act, task))
        self._memory[act.id], wanted = action.steer(task, self._memory.get(act.id), moment)
        self._tell_why(act, self._memory[act.id])
        since = self.around.clock.monotonic() - self._touched.get(act.id, -float("inf"))
        if executor.text(wanted) != act.ours[-1] and not self.halted:
            self._happened(Event(act.id, Kind.RETUNING, f"to {executor.text(wanted)}", value=executor.text(wanted)))
        elif action.TTL is not None and since >= action.TTL / RENEWALS:
            self._do(act, json.loads(act.ours[-1]), Kind.RETUNED)

    def _beside(self, act: Act, task: Task) -> tuple[Task, ...]:
        """What other remedies that claim the resource ask of it."""
        names = dict.fromkeys(claim.remedy for claim in act.claims if claim.remedy != task.remedy)
        others = [self.book[name] for name in names if name in self.book]
        return tuple(bound.task_for(dict(act.labels)) for bound in others if bound.remedy.resource == act.resource)

    def _tell_why(self, act: Act, memory: Any) -> None:
        """A line in the audit when the reason changes, and one a minute at most: a sensor may come and go."""
        now = self.around.clock.monotonic()
        reason, since = self._told.get(act.id, ("", -float("inf")))
        if isinstance(memory, Steered) and memory.reason != reason and now - since >= TELL_EVERY:
            self._told[act.id] = (memory.reason, now)
            self._take(
                Step(
                    self.state, entries=(transitions.entry_of(self.around.clock.now_ms(), act, "steers", memory.says),)
                )
            )

    def _put_back(self, act: Act) -> None:
        if act.observed:
            self._happened(Event(act.id, Kind.RESTORED, "only observed"))
            return
        now = self.around.clock.monotonic()
        if self._errands.busy(act.id) or now - self._touched.get(-act.id, -float("inf")) < AGAIN:
            return
        self._touched[-act.id] = now
        try:
            action, task = self._means(act)
        except Exception as error:  # its action has been uninstalled: it cannot be put back by us, and that is told
            self._happened(Event(act.id, Kind.CHANGED, f"cannot be put back: {type(error).__name__}: {error}"))
            return
        untouched = now - self._touched.get(act.id, self._began)
        self._errands.run(act.id, executor.undoing(act, action, task, self.around.access(), untouched), now)

    def _means(self, act: Act) -> tuple[Action, Task]:
        name = act.strictest.remedy if act.claims else act.remedy
        bound = self.book.get(name) or self.book.get(act.remedy)
        if bound is not None and bound.remedy.resource == act.resource:
            return bound.action, bound.task_for(dict(act.labels))
        # It is put back without the remedy's patterns, so a posted alert's labels are not shown.
        labels = {} if act.posted else dict(act.labels)
        return catalog.by_means(act.remedy, act.means, labels)

    def _tell(self, entry: Entry) -> None:
        self.counts[entry.remedy, entry.what] = self.counts.get((entry.remedy, entry.what), 0) + 1
        if entry.what in MOVES:
            return
        log = self._log.info if entry.observed or entry.what != "gave up" else self._log.error
        log(f"remedy: {entry.what}", remedy=entry.remedy, resource=entry.resource, says=entry.says or None)

    def pause(self, name: str, who: str) -> None:
        """Nothing is begun until it is resumed; `who` is told in the audit."""
        self._take(Step(transitions.pause(self.state, name), entries=(self._by_people("paused", name, who),)))

    def resume(self, name: str | None, who: str) -> bool:
        """Lifts a pause or a latch, or all; False where there was none of that name."""
        after = transitions.resume(self.state, name, self.around.clock.now_ms())
        lifted = (after.pauses, after.latches) != (self.state.pauses, self.state.latches)
        if lifted:
            self._take(Step(after, entries=(self._by_people("resumed", name or "everything", who),)))
        return lifted

    async def tried(self, name: str) -> Event:
        """What a remedy's plan says now, for an alert that fires where one does; nothing is touched or counted."""
        bound = self.book[name]
        labels = self._firing(bound)
        told: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

        def deliver(event: Event) -> None:
            if not told.done():  # nobody waits any more
                told.set_result(event)

        act = Act(0, name, bound.remedy.resource, (), True, bound.remedy.reversible, Phase.STARTED, 0, ())
        missing = functools.partial(self._missing, bound.action, False)
        job = executor.planning(act, bound.action, bound.task_for(dict(labels or ())), self.around.access(), missing)
        Errands(deliver).run(0, job, self.around.clock.monotonic())
        event = await told
        if labels is None and event.kind is not Kind.INTENDED:
            event = event._replace(says=f"{event.says}; planned without labels, since no alert that it is for fires")
        return event

    def _firing(self, bound: Bound) -> Labels | None:
        """The labels of an alert that a remedy is for and that fires."""
        seen = self.around.seen(self.around.clock.now_ms())
        mine = (each.alert for each in seen if guards.matches(bound.remedy, each))
        return next((alert.labels for alert in mine if alert.state is AlertState.FIRING), None)

    def _by_people(self, what: str, name: str, who: str) -> Entry:
        return Entry(self.around.clock.now_ms(), "", (), "", what, f"{name}, by {who}")

    async def close(self) -> None:
        """Puts back what is only to last while the agent does; leases of the rest end by themselves, or are adopted."""
        for act in self.state.acts:
            mine = [self.book[claim.remedy].remedy for claim in act.claims if claim.remedy in self.book]
            if act.phase is Phase.HELD and mine and all(remedy.rollback == "on_exit" for remedy in mine):
                self._let_go(act)
        with contextlib.suppress(TimeoutError):  # what is left is an orphan that the next start puts back
            async with asyncio.timeout(FAREWELL):
                while self._errands.outstanding or any(act.phase is Phase.RELEASING for act in self.state.acts):
                    await asyncio.sleep(0.02)
        if self._journal is not None:
            self._journal.close()
        await self._dead_man.close()

    def _let_go(self, act: Act) -> None:
        released = replace(act, phase=Phase.RELEASING)
        entry = transitions.entry_of(self.around.clock.now_ms(), act, "release", "the agent ends")
        self._take(Step(self.state.with_act(released), release=(released,), entries=(entry,)))
