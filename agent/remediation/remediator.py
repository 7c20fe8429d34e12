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

from agent.actions import Action, Moment, Steered, Task
from agent.config.schema import RemediationConfig
from agent.remediation import catalog, executor, guards, hand, transitions, verification
from agent.remediation.catalog import BoundRemedy
from agent.remediation.context import RemediationContext
from agent.remediation.crash_rollback import CrashRollback
from agent.remediation.executor import ActionExecutor
from agent.remediation.journal import Journal, JournalError, take_timestamp
from agent.remediation.model import (
    Act,
    AlertInput,
    AuditEntry,
    Decision,
    DecisionInputs,
    Event,
    EventKind,
    Phase,
    RemediationState,
)
from agent.runtime.threads import make_loop_callback
from collectors import Labels
from rules.alerts import Alert, AlertState

RETRY_SECONDS = 5.0  # seconds until what could not be put back is tried again
RENEWALS_PER_TTL = 3  # in each ttl of a lease, so that two may fail
MOVE_KINDS = (EventKind.RETUNING.value, EventKind.RETUNED.value)  # not in the audit: a controller moves each second
STEER_REPORT_SECONDS = 60.0  # seconds between two lines of the audit on why what is held is moved
CLOSE_TIMEOUT = 3.0  # seconds for what is put back when the agent ends


class Remediator:
    """All remedies of one agent."""

    def __init__(
        self, context: RemediationContext, settings: RemediationConfig, remedies: Iterable[BoundRemedy]
    ) -> None:
        self.context = context
        self.halted = ""
        self._log = structlog.get_logger()
        self._executor = ActionExecutor(self._apply_event)
        self._journal: Journal | None = None
        try:
            self._journal = Journal(context.folder, lambda: take_timestamp(context.clock.now_ms()))
        except JournalError as error:
            self.halted = str(error)
            self._log.error("no remedy acts", reason=self.halted)
        self.state = (
            RemediationState() if self._journal is None else self._journal.state.with_identity(context.identity)
        )
        self._committed: RemediationState | None = self.state
        self._memory: dict[int, Any] = {}
        self._touched_at: dict[int, float] = {}
        self._began = context.clock.monotonic()
        self._steer_reports: dict[int, tuple[str, float]] = {}
        self._failures: dict[int, set[tuple[Phase, str]]] = {}
        self.counts: dict[tuple[str, str], int] = {}
        self._crash_rollback = CrashRollback(context.folder, context.hand_path, context.token_file)
        self.configure(settings, remedies)

    def configure(self, settings: RemediationConfig, remedies: Iterable[BoundRemedy]) -> None:
        """Takes another configuration over; what is held is looked at anew at the next tick."""
        self.settings = settings
        self.catalog = {bound.remedy.name: bound for bound in remedies}
        self.pacing_settings = catalog.collect_pacing_settings(self.catalog.values())

    @property
    def is_observing(self) -> bool:
        """Whether nothing is really done; never below a picture of a machine, whose alerts are not this one's."""
        return self.settings.mode == "observe" or os.path.abspath(self.context.root) != "/"

    @property
    def is_killed(self) -> bool:
        """Whether the kill-switch file is there."""
        return os.path.exists(self.settings.pause_file)

    def get_held_duties(self) -> dict[str, float]:
        """The duty that each paced engine is held at."""
        held_acts = [act for act in self.state.acts if act.phase is Phase.HELD and not act.observed and act.ours]
        names = {act.id: catalog.find_paced_engine(act.means) for act in held_acts}
        return {name: float(json.loads(act.ours[-1])) for act in held_acts if (name := names[act.id])}

    def iter_steered(self) -> Iterator[tuple[Act, Steered]]:
        """What is moved while it is held, with why it is as it is."""
        for act in self.state.acts:
            memory = self._memory.get(act.id)
            if isinstance(memory, Steered):
                yield act, memory

    def recover(self) -> None:
        """At the start: what the process before left half-way is ended as the journal has it."""
        for act in self.state.acts:
            self._apply_event(Event(act.id, EventKind.INTERRUPTED, f"the agent ended while it was {act.phase.value}"))

    def shift(self, delta_ms: int) -> None:
        """The wall clock stepped."""
        self.state = self.state.shift(delta_ms)

    def tick(self, now_ms: int) -> None:
        """After notify: asks the guards, and sees to what is held."""
        try:
            self._evaluate(now_ms)
        except Exception as error:  # a fault in a remedy must not take the tick; what is held then ends as leases do
            self._log.exception("remedies failed", reason=f"{type(error).__name__}: {error}")

    def _evaluate(self, now_ms: int) -> None:
        self._executor.expire_jobs(self.context.clock.monotonic())
        self._crash_rollback.start_if_needed(
            bound.action for bound in self.catalog.values() if bound.remedy.enabled and not self.is_observing
        )
        inputs = self.context.build_verification_inputs(now_ms)
        for event in verification.collect_verdicts(self.state.acts, self.catalog, inputs):
            self._apply_event(event)
        self._commit(guards.decide(self.state, self._build_inputs(now_ms)))
        for act in self.state.acts:
            if act.phase is Phase.HELD and act.reversible and not act.observed:
                self._try_renew(act, now_ms)
            elif act.phase is Phase.RELEASING:
                self._roll_back(act)
        self._forget_ended_acts({act.id for act in self.state.acts})

    def _forget_ended_acts(self, open_ids: set[int]) -> None:
        """What was kept of acts that have ended."""
        tables: tuple[dict[int, Any], ...] = (self._memory, self._touched_at, self._steer_reports, self._failures)
        for table in tables:
            for number in [number for number in table if abs(number) not in open_ids]:
                del table[number]

    def _build_inputs(self, now_ms: int) -> DecisionInputs:
        alerts = tuple(self.context.iter_alert_inputs(now_ms))
        return DecisionInputs(
            now_ms=now_ms,
            observing=self.is_observing,
            remedies=tuple(bound.remedy for bound in self.catalog.values()),
            alerts=alerts,
            max_per_hour=self.settings.max_per_hour,
            killed=self.is_killed,
            halted=self.halted,
            silenced=frozenset(
                alert_input.alert.labels for alert_input in alerts if self.context.is_silenced(alert_input.alert.labels)
            ),
        )

    def matches_alert(self, alert: Alert) -> bool:
        """Whether a remedy is for an alert that an Alertmanager posts."""
        alert_input = AlertInput(alert, source="webhook")
        return any(
            bound.remedy.enabled and guards.matches(bound.remedy, alert_input) for bound in self.catalog.values()
        )

    def _apply_event(self, event: Event) -> None:
        act = self.state.find_act(event.act)
        if act is not None and act.phase in (Phase.HELD, Phase.RELEASING) and self._is_repetition(act, event):
            return
        now_ms = self.context.clock.now_ms()
        if act is not None and act.before is None and event.kind in (EventKind.INTENDED, EventKind.RETUNING):
            event = event._replace(
                before=verification.measure_before(act, self.catalog, self.context.build_verification_inputs(now_ms))
            )
        self._commit(transitions.apply(self.state, event, now_ms))

    def _is_repetition(self, act: Act, event: Event) -> bool:
        """A renewal that went as the one before is no line in the audit, nor what could not be put back once more."""
        if event.kind not in (EventKind.FAILED, EventKind.UNKNOWN):
            had_failures = self._failures.pop(act.id, None)
            return not had_failures and event.kind is EventKind.RETUNED and act.ours == (event.value,)
        failures = self._failures.setdefault(act.id, set())
        failure = "" if act.phase is Phase.HELD else event.detail
        is_known = (act.phase, failure) in failures
        failures.add((act.phase, failure))
        return is_known

    def _commit(self, decision: Decision) -> None:
        """Makes the state so, has it journalled, and goes on when it is."""
        self.state = decision.state
        for entry in decision.entries:
            self._log_entry(entry)
        changed = self.state != self._committed or bool(decision.entries)
        if self._journal is None or not (changed or self.halted):
            return
        self._committed = self.state
        report_commit = make_loop_callback(lambda fault: self._on_committed(decision, fault))
        audited = [entry for entry in decision.entries if entry.what not in MOVE_KINDS]
        self._journal.commit(self.state, audited, report_commit)

    def _on_committed(self, decision: Decision, fault: str | None) -> None:
        if fault and not self.halted:
            self._log.error("no remedy acts until the journal can be written; free its disk", reason=fault)
        elif self.halted and not fault:
            self._log.info("the journal is written again")
        self.halted = fault or ""
        for act in decision.begin:
            if fault:
                self._apply_event(Event(act.id, EventKind.FAILED, fault))
            else:
                self._plan_act(act)
        for act in decision.release:
            self._roll_back(act)
        writing = {
            entry.act
            for entry in decision.entries
            if entry.what in (EventKind.INTENDED.value, EventKind.RETUNING.value)
        }
        for act in (act for act in decision.state.acts if act.id in writing):
            if fault:
                self._apply_event(Event(act.id, EventKind.FAILED, fault))
            else:
                self._write_act(act)

    def _plan_act(self, act: Act) -> None:
        bound = self.catalog.get(act.remedy)
        if bound is None:
            self._apply_event(Event(act.id, EventKind.REFUSED, "the remedy has left the configuration"))
            return
        missing_reason = functools.partial(self._explain_missing_hand, bound.action, act.observed)
        job = executor.plan_job(
            act, bound.action, bound.build_task(dict(act.labels)), self.context.make_action_context(), missing_reason
        )
        self._executor.run(act.id, job, self.context.clock.monotonic())

    def _explain_missing_hand(self, action: Action, observed: bool) -> str:
        """Why the hand cannot do it; in observe a hand is not needed. Asked in a thread."""
        return "" if observed or not action.VERBS else hand.explain_missing_verbs(self.context.hand_path, action.VERBS)

    def _write_act(self, act: Act) -> None:
        current = self.state.find_act(act.id)
        if current is None or current.phase not in (Phase.WRITING, Phase.HELD):
            return
        if current.phase is Phase.WRITING and (reason := self._find_stop_reason(current)):
            self._apply_event(Event(act.id, EventKind.REFUSED, f"{reason}; nothing was written"))
            return
        if act.observed:
            self._apply_event(Event(act.id, EventKind.DID, "only observed", value=act.ours[-1]))
            return
        self._do_act(
            current,
            json.loads(current.ours[-1]),
            EventKind.DID if current.phase is Phase.WRITING else EventKind.RETUNED,
        )

    def _find_stop_reason(self, act: Act) -> str:
        return guards.find_stop_reason(self.state, self._build_inputs(self.context.clock.now_ms()), act)

    def _do_act(self, act: Act, target_value: Any, success_kind: EventKind) -> None:
        action, task = self._action_of(act)
        job = executor.do_job(act, action, task, self.context.make_action_context(), target_value, success_kind)
        if self._executor.run(act.id, job, self.context.clock.monotonic()):
            self._touched_at[act.id] = self.context.clock.monotonic()

    def _try_renew(self, act: Act, now_ms: int) -> None:
        try:
            self._renew(act, now_ms)
        except Exception as error:  # one action's fault must not cost the others their leases; its own then ends
            reason = f"{type(error).__name__}: {error}"
            self._log.error("what is held cannot be seen to", remedy=act.remedy, reason=reason)

    def _renew(self, act: Act, now_ms: int) -> None:
        """Renews a lease when it is due, and moves the value where its action wants it moved."""
        if self._executor.is_busy(act.id) or not act.claims:
            return
        action, task = self._action_of(act)
        moment = Moment(
            now_ms, json.loads(act.ours[-1]), act.is_lost, self.context.query, self._list_other_tasks(act, task)
        )
        self._memory[act.id], target_value = action.steer(task, self._memory.get(act.id), moment)
        self._report_steering(act, self._memory[act.id])
        since = self.context.clock.monotonic() - self._touched_at.get(act.id, -float("inf"))
        if executor.to_json(target_value) != act.ours[-1] and not self.halted:
            self._apply_event(
                Event(
                    act.id,
                    EventKind.RETUNING,
                    f"to {executor.to_json(target_value)}",
                    value=executor.to_json(target_value),
                )
            )
        elif action.TTL is not None and since >= action.TTL / RENEWALS_PER_TTL:
            self._do_act(act, json.loads(act.ours[-1]), EventKind.RETUNED)

    def _list_other_tasks(self, act: Act, task: Task) -> tuple[Task, ...]:
        """What other remedies that claim the resource ask of it."""
        names = dict.fromkeys(claim.remedy for claim in act.claims if claim.remedy != task.remedy)
        others = [self.catalog[name] for name in names if name in self.catalog]
        return tuple(bound.build_task(dict(act.labels)) for bound in others if bound.remedy.resource == act.resource)

    def _report_steering(self, act: Act, memory: Any) -> None:
        """A line in the audit when the reason changes, and one a minute at most: a sensor may come and go."""
        now = self.context.clock.monotonic()
        reason, since = self._steer_reports.get(act.id, ("", -float("inf")))
        if isinstance(memory, Steered) and memory.reason != reason and now - since >= STEER_REPORT_SECONDS:
            self._steer_reports[act.id] = (memory.reason, now)
            self._commit(
                Decision(
                    self.state,
                    entries=(transitions.make_entry(self.context.clock.now_ms(), act, "steers", memory.says),),
                )
            )

    def _roll_back(self, act: Act) -> None:
        if act.observed:
            self._apply_event(Event(act.id, EventKind.RESTORED, "only observed"))
            return
        now = self.context.clock.monotonic()
        if self._executor.is_busy(act.id) or now - self._touched_at.get(-act.id, -float("inf")) < RETRY_SECONDS:
            return
        self._touched_at[-act.id] = now
        try:
            action, task = self._action_of(act)
        except Exception as error:  # its action has been uninstalled: it cannot be put back by us, and that is told
            self._apply_event(Event(act.id, EventKind.CHANGED, f"cannot be put back: {type(error).__name__}: {error}"))
            return
        untouched = now - self._touched_at.get(act.id, self._began)
        self._executor.run(
            act.id, executor.undo_job(act, action, task, self.context.make_action_context(), untouched), now
        )

    def _action_of(self, act: Act) -> tuple[Action, Task]:
        name = act.tightest_claim.remedy if act.claims else act.remedy
        bound = self.catalog.get(name) or self.catalog.get(act.remedy)
        if bound is not None and bound.remedy.resource == act.resource:
            return bound.action, bound.build_task(dict(act.labels))
        # It is put back without the remedy's patterns, so a posted alert's labels are not shown.
        labels = {} if act.is_posted else dict(act.labels)
        return catalog.from_undo_recipe(act.remedy, act.means, labels)

    def _log_entry(self, entry: AuditEntry) -> None:
        self.counts[entry.remedy, entry.what] = self.counts.get((entry.remedy, entry.what), 0) + 1
        if entry.what in MOVE_KINDS:
            return
        log = self._log.info if entry.observed or entry.what != "gave up" else self._log.error
        log(f"remedy: {entry.what}", remedy=entry.remedy, resource=entry.resource, says=entry.says or None)

    def pause(self, name: str, operator: str) -> None:
        """Nothing is begun until it is resumed; `who` is told in the audit."""
        self._commit(
            Decision(
                transitions.pause(self.state, name), entries=(self._make_operator_entry("paused", name, operator),)
            )
        )

    def resume(self, name: str | None, operator: str) -> bool:
        """Lifts a pause or a latch, or all; False where there was none of that name."""
        new_state = transitions.resume(self.state, name, self.context.clock.now_ms())
        lifted = (new_state.pauses, new_state.latches) != (self.state.pauses, self.state.latches)
        if lifted:
            self._commit(
                Decision(new_state, entries=(self._make_operator_entry("resumed", name or "everything", operator),))
            )
        return lifted

    async def dry_run(self, name: str) -> Event:
        """What a remedy's plan says now, for an alert that fires where one does; nothing is touched or counted."""
        bound = self.catalog[name]
        labels = self._find_firing_labels(bound)
        result: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

        def deliver(event: Event) -> None:
            if not result.done():  # nobody waits any more
                result.set_result(event)

        act = Act(0, name, bound.remedy.resource, (), True, bound.remedy.reversible, Phase.STARTED, 0, ())
        missing_reason = functools.partial(self._explain_missing_hand, bound.action, False)
        job = executor.plan_job(
            act, bound.action, bound.build_task(dict(labels or ())), self.context.make_action_context(), missing_reason
        )
        ActionExecutor(deliver).run(0, job, self.context.clock.monotonic())
        event = await result
        if labels is None and event.kind is not EventKind.INTENDED:
            event = event._replace(
                detail=f"{event.detail}; planned without labels, since no alert that it is for fires"
            )
        return event

    def _find_firing_labels(self, bound: BoundRemedy) -> Labels | None:
        """The labels of an alert that a remedy is for and that fires."""
        alert_inputs = self.context.iter_alert_inputs(self.context.clock.now_ms())
        matching = (alert_input.alert for alert_input in alert_inputs if guards.matches(bound.remedy, alert_input))
        return next((alert.labels for alert in matching if alert.state is AlertState.FIRING), None)

    def _make_operator_entry(self, event_name: str, name: str, operator: str) -> AuditEntry:
        return AuditEntry(self.context.clock.now_ms(), "", (), "", event_name, f"{name}, by {operator}")

    async def close(self) -> None:
        """Puts back what is only to last while the agent does; leases of the rest end by themselves, or are adopted."""
        for act in self.state.acts:
            claimants = [self.catalog[claim.remedy].remedy for claim in act.claims if claim.remedy in self.catalog]
            if act.phase is Phase.HELD and claimants and all(remedy.rollback == "on_exit" for remedy in claimants):
                self._release_act(act)
        with contextlib.suppress(TimeoutError):  # what is left is an orphan that the next start puts back
            async with asyncio.timeout(CLOSE_TIMEOUT):
                while self._executor.has_pending or any(act.phase is Phase.RELEASING for act in self.state.acts):
                    await asyncio.sleep(0.02)
        if self._journal is not None:
            self._journal.close()
        await self._crash_rollback.close()

    def _release_act(self, act: Act) -> None:
        released = replace(act, phase=Phase.RELEASING)
        entry = transitions.make_entry(self.context.clock.now_ms(), act, "release", "the agent ends")
        self._commit(Decision(self.state.with_act(released), release=(released,), entries=(entry,)))
