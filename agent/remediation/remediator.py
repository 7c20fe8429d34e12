"""
Remedies at work. Each tick asks the guards, journals their decision, and only then acts.

The order is write-ahead: `=>` crosses to the journal's thread and back, `~>` to the action's thread and back.
The names in quotes are those of EventKind and of the audit.

    recover, once: _apply_event("interrupted") for every open act
    tick -> _evaluate
      collect_verdicts -> _apply_event("helped", "useless" or "unjudged")
      guards.decide
        -> _commit("begin")                        => _on_committed -> _plan_committed      ~> _apply_event("intended")
        -> _commit("intended", the prior value)    => _on_committed -> _write_committed     ~> _apply_event("did")
        -> _commit("did"): the act is held
      guards.decide (claims.update_claims) with no claim left:
        -> _commit("release")                      => _on_committed -> _roll_back_committed ~> _apply_event("restored")
      each held act -> _renew
        the value stays:                              _start_write                          ~> _apply_event("retuned")
        the controller's reason changed:              _report_steering -> _commit("steers")
        another value: _apply_event("retuning")
        -> _commit("retuning", the value)          => _on_committed -> _write_committed     ~> _apply_event("retuned")
      each act that is being undone -> _roll_back_committed: another try, at most each RETRY_SECONDS
    close: _release_act -> _commit("release") for every act with rollback: on_exit

_apply_event ends in _commit. An event that ends a reversible act ("useless", "failed", "unknown") makes it RELEASING,
and its commit undoes it. "refused" before the write, "changed" and "restored" drop the act. An observed act takes the
same way without `~>` after its plan: _write_committed and _roll_back_committed report "did" and "restored" themselves.

Every commit is synced to the disk before its callback runs. Nothing here decides, and nothing here waits.
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
from agent.remediation import catalog, evidence, executor, guards, hand, transitions, verification
from agent.remediation.audit_log import MOVE_KINDS, AuditLog
from agent.remediation.context import RemediationContext
from agent.remediation.crash_rollback import CrashRollback
from agent.remediation.executor import ActionExecutor
from agent.remediation.journal import Journal, take_timestamp
from agent.remediation.journal_access import JournalAccess
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
    Remedy,
)
from agent.runtime.errors import describe_fault
from agent.runtime.threads import make_loop_callback, run_in_thread
from collectors import Labels
from rules.alerts import Alert, AlertState

RETRY_SECONDS = 5.0  # seconds between two tries to undo an act
RENEWALS_PER_TTL = 3  # in each ttl of a lease, so that two may fail
CLOSE_TIMEOUT = 3.0  # seconds for the undoing of acts when the agent ends
WRITE_KINDS = (EventKind.INTENDED.value, EventKind.RETUNING.value)  # a write follows their commit


class Remediator:
    """All remedies of one agent."""

    def __init__(self, context: RemediationContext, settings: RemediationConfig, remedies: Iterable[Remedy]) -> None:
        self.context = context
        self.audit = AuditLog()
        self._log = structlog.get_logger()
        self._executor = ActionExecutor(self._apply_event)
        self._journal_access = JournalAccess(context.folder, lambda: take_timestamp(context.clock.now_ms()))
        self.halted = self._journal_access.fault
        self.state = self._committed = RemediationState()
        self._memory: dict[int, Any] = {}
        self._touched_at: dict[int, float] = {}
        self._undo_tried_at: dict[int, float] = {}
        self._began = context.clock.monotonic()
        self._crash_rollback = CrashRollback(context.folder, context.hand_path, context.token_file)
        if self._journal is not None:
            self._adopt_journal(self._journal.state)
        self.configure(settings, remedies)

    def _adopt_journal(self, stored: RemediationState) -> None:
        """Goes on from the state in the journal. Before it could be read nothing began; pauses of then still hold."""
        pauses = tuple(dict.fromkeys((*stored.pauses, *self.state.pauses)))
        self.state = replace(stored.with_identity(self.context.identity), pauses=pauses)
        self._committed, self.halted = stored, ""

    def _adopt_late_journal(self, stored: RemediationState) -> None:
        self._adopt_journal(stored)
        self.recover()

    def configure(self, settings: RemediationConfig, remedies: Iterable[Remedy]) -> None:
        """Adopts another configuration; the next tick evaluates held acts against it."""
        self.settings = settings
        self.catalog = {remedy.name: remedy for remedy in remedies}
        self.pacing_settings = catalog.collect_pacing_settings(self.catalog.values())

    @property
    def is_observing(self) -> bool:
        """True while nothing is really done. Always True for a recorded root: its alerts belong to another host."""
        return self.settings.mode == "observe" or os.path.abspath(self.context.root) != "/"

    @property
    def is_killed(self) -> bool:
        """True while the kill-switch file exists."""
        return os.path.exists(self.settings.pause_file)

    def get_held_duties(self) -> dict[str, float]:
        """Returns the duty that each paced engine is held at."""
        held_acts = [act for act in self.state.acts if act.phase is Phase.HELD and not act.observed and act.ours]
        names = {act.id: catalog.find_paced_engine(act.undo_recipe) for act in held_acts}
        return {name: float(json.loads(act.ours[-1])) for act in held_acts if (name := names[act.id])}

    def iter_steered(self) -> Iterator[tuple[Act, Steered]]:
        """Yields the acts whose value a controller adjusts, with the reason of the last adjustment."""
        for act in self.state.acts:
            memory = self._memory.get(act.id)
            if isinstance(memory, Steered):
                yield act, memory

    def recover(self) -> None:
        """Sends INTERRUPTED to every act that the previous process left open; called once the journal is read."""
        self._journal_access.report_leases(self.context.hand_path)
        for act in self.state.acts:
            self._apply_event(Event(act.id, EventKind.INTERRUPTED, f"the agent ended while it was {act.phase.value}"))

    def shift(self, delta_ms: int) -> None:
        """Moves all times with the wall clock."""
        self.state = self.state.shift(delta_ms)

    def tick(self, now_ms: int) -> None:
        """Evaluates the remedies, and renews or undoes the acts under way."""
        self._journal_access.retry_if_due(self.context.clock.monotonic(), self._adopt_late_journal)
        self.halted = self._journal_access.fault or self.halted
        self._executor.expire_jobs(self.context.clock.monotonic())
        self._crash_rollback.start_if_needed(
            remedy.action for remedy in self.catalog.values() if remedy.enabled and not self.is_observing
        )
        inputs = self.context.build_verification_inputs(now_ms)
        for event in verification.collect_verdicts(self.state.acts, self.catalog, inputs):
            self._apply_event(event)
        self._commit(guards.decide(self.state, self._build_inputs(now_ms)))
        for act in self.state.acts:
            if act.phase is Phase.HELD and act.reversible and not act.observed:
                self._try_renew(act, now_ms)
            elif act.phase is Phase.RELEASING:
                self._roll_back_committed(act)
        self._forget_ended_acts({act.id for act in self.state.acts})

    @property
    def _journal(self) -> Journal | None:
        return self._journal_access.journal

    def _forget_ended_acts(self, open_ids: set[int]) -> None:
        tables: tuple[dict[int, Any], ...] = (self._memory, self._touched_at, self._undo_tried_at)
        for table in tables:
            for number in table.keys() - open_ids:
                del table[number]
        self.audit.forget_ended_acts(open_ids)

    def _build_inputs(self, now_ms: int) -> DecisionInputs:
        alerts = tuple(self.context.iter_alert_inputs(now_ms))
        labels = (alert_input.alert.labels for alert_input in alerts)
        return DecisionInputs(
            now_ms=now_ms,
            observing=self.is_observing,
            remedies=tuple(self.catalog.values()),
            alerts=alerts,
            max_per_hour=self.settings.max_per_hour,
            killed=self.is_killed,
            halted=self.halted,
            silenced=frozenset(filter(self.context.is_silenced, labels)),
        )

    def matches_alert(self, alert: Alert) -> bool:
        """True if a remedy is for an alert that an Alertmanager posts."""
        alert_input = AlertInput(alert, source="webhook")
        return any(remedy.enabled and evidence.matches(remedy, alert_input) for remedy in self.catalog.values())

    # Before the journal: the state changes in memory, and nothing is touched.

    def _apply_event(self, event: Event) -> None:
        act = self.state.find_act(event.act)
        if act is not None and act.phase in (Phase.HELD, Phase.RELEASING) and self.audit.is_repetition(act, event):
            return
        now_ms = self.context.clock.now_ms()
        if act is not None and act.before is None and event.kind.value in WRITE_KINDS:
            inputs = self.context.build_verification_inputs(now_ms)
            event = event._replace(before=verification.measure_before(act, self.catalog, inputs))
        self._commit(transitions.apply(self.state, event, now_ms))

    def _commit(self, decision: Decision) -> None:
        """Adopts the new state and journals it; `_on_committed` goes on once it is on the disk."""
        self.state = decision.state
        for entry in decision.entries:
            self.audit.log_entry(entry)
        changed = self.state != self._committed or bool(decision.entries)
        if self._journal is None or not (changed or self.halted):
            return
        self._committed = self.state
        report_commit = make_loop_callback(lambda fault: self._on_committed(decision, fault))
        audited = [entry for entry in decision.entries if entry.what not in MOVE_KINDS]
        self._journal.commit(self.state, audited, report_commit)

    # After the journal: the decision is on the disk, and its acts may begin, write or be undone.

    def _on_committed(self, decision: Decision, fault: str | None) -> None:
        if fault and not self.halted:
            self._log.error("no remedy acts until the journal can be written; free disk space", reason=fault)
        elif self.halted and not fault:
            self._log.info("the journal is written again")
        self.halted = fault or ""
        for act in decision.begin:
            if fault:
                self._apply_event(Event(act.id, EventKind.FAILED, fault))
            else:
                self._plan_committed(act)
        for act in decision.release:
            self._roll_back_committed(act)
        writing = {entry.act for entry in decision.entries if entry.what in WRITE_KINDS}
        for act in (act for act in decision.state.acts if act.id in writing):
            if fault:
                self._apply_event(Event(act.id, EventKind.FAILED, fault))
            else:
                self._write_committed(act)

    def _plan_committed(self, act: Act) -> None:
        remedy = self.catalog.get(act.remedy)
        if remedy is None:
            self._apply_event(Event(act.id, EventKind.REFUSED, "the remedy has left the configuration"))
            return
        job = self._make_plan_job(act, remedy, dict(act.labels), observed=act.observed)
        self._executor.run(act.id, job, self.context.clock.monotonic())

    def _make_plan_job(self, act: Act, remedy: Remedy, labels: dict[str, str], *, observed: bool) -> executor.Job:
        missing_reason = functools.partial(self._explain_missing_hand, remedy.action, observed)
        context = self.context.make_action_context()
        return executor.make_plan_job(act, remedy.action, remedy.build_task(labels), context, missing_reason)

    def _explain_missing_hand(self, action: Action, observed: bool) -> str:
        """Says why the hand cannot do the action; observing needs no hand. Runs in a thread."""
        return "" if observed or not action.VERBS else hand.explain_missing_verbs(self.context.hand_path, action.VERBS)

    def _write_committed(self, act: Act) -> None:
        current = self.state.find_act(act.id)
        if current is None or current.phase not in (Phase.WRITING, Phase.HELD):
            return
        if current.phase is Phase.WRITING and (reason := self._find_stop_reason(current)):
            self._apply_event(Event(act.id, EventKind.REFUSED, f"{reason}; nothing was written"))
        elif act.observed:
            self._apply_event(Event(act.id, EventKind.DID, "only observed", value=act.ours[-1]))
        else:
            success_kind = EventKind.DID if current.phase is Phase.WRITING else EventKind.RETUNED
            self._start_write(current, json.loads(current.ours[-1]), success_kind)

    def _find_stop_reason(self, act: Act) -> str:
        return guards.find_stop_reason(self.state, self._build_inputs(self.context.clock.now_ms()), act)

    def _start_write(self, act: Act, target_value: Any, success_kind: EventKind) -> None:
        """Starts the action's write: for _write_committed, or for _renew with the value already in the journal."""
        action, task = self._action_of(act)
        job = executor.make_do_job(act, action, task, self.context.make_action_context(), target_value, success_kind)
        if self._executor.run(act.id, job, self.context.clock.monotonic()):
            self._touched_at[act.id] = self.context.clock.monotonic()

    # While it is held: renewals, the controller's moves, and the undoing.

    def _try_renew(self, act: Act, now_ms: int) -> None:
        try:
            self._renew(act, now_ms)
        except Exception as error:  # one action's fault must not cost the others their leases; its own then ends
            self._log.error("a held act cannot be renewed", remedy=act.remedy, reason=describe_fault(error))

    def _renew(self, act: Act, now_ms: int) -> None:
        """Renews a lease when it is due, and journals another value where the action steers to one."""
        if self._executor.is_busy(act.id) or not act.claims:
            return
        action, task = self._action_of(act)
        held_value, others = json.loads(act.ours[-1]), self._list_other_tasks(act, task)
        moment = Moment(now_ms, held_value, act.is_lost, self.context.query, others)
        self._memory[act.id], target_value = action.steer(task, self._memory.get(act.id), moment)
        self._report_steering(act, self._memory[act.id])
        encoded = executor.to_json(target_value)
        since = self.context.clock.monotonic() - self._touched_at.get(act.id, -float("inf"))
        if encoded != act.ours[-1] and not self.halted:
            self._apply_event(Event(act.id, EventKind.RETUNING, f"to {encoded}", value=encoded))
        elif action.TTL is not None and since >= action.TTL / RENEWALS_PER_TTL:
            self._start_write(act, held_value, EventKind.RETUNED)

    def _list_other_tasks(self, act: Act, task: Task) -> tuple[Task, ...]:
        """Returns the tasks of the other remedies that claim the resource."""
        names = dict.fromkeys(claim.remedy for claim in act.claims if claim.remedy != task.remedy)
        others = [self.catalog[name] for name in names if name in self.catalog]
        return tuple(remedy.build_task(dict(act.labels)) for remedy in others if remedy.resource == act.resource)

    def _report_steering(self, act: Act, memory: Any) -> None:
        if self.audit.is_steering_due(act, memory, self.context.clock.monotonic()):
            entry = transitions.make_entry(self.context.clock.now_ms(), act, "steers", memory.says)
            self._commit(Decision(self.state, entries=(entry,)))

    def _roll_back_committed(self, act: Act) -> None:
        """Undoes an act whose release is journalled; each tick calls it again until the act has ended."""
        if act.observed:
            self._apply_event(Event(act.id, EventKind.RESTORED, "only observed"))
            return
        now = self.context.clock.monotonic()
        if self._executor.is_busy(act.id) or now - self._undo_tried_at.get(act.id, -float("inf")) < RETRY_SECONDS:
            return
        self._undo_tried_at[act.id] = now
        try:
            action, task = self._action_of(act)
        except Exception as error:  # its action has been uninstalled: the audit says that the agent cannot undo it
            self._apply_event(Event(act.id, EventKind.CHANGED, f"cannot be undone: {type(error).__name__}: {error}"))
            return
        untouched = now - self._touched_at.get(act.id, self._began)
        context = self.context.make_action_context()
        self._executor.run(act.id, executor.make_undo_job(act, action, task, context, untouched), now)

    def _action_of(self, act: Act) -> tuple[Action, Task]:
        name = act.tightest_claim.remedy if act.claims else act.remedy
        remedy = self.catalog.get(name) or self.catalog.get(act.remedy)
        if remedy is not None and remedy.resource == act.resource:
            return remedy.action, remedy.build_task(dict(act.labels))
        # The remedy's patterns are gone, so the labels of a posted alert are withheld.
        labels = {} if act.is_posted else dict(act.labels)
        return catalog.from_undo_recipe(act.remedy, act.undo_recipe, labels)

    # The operator's commands.

    def pause(self, name: str, operator: str) -> None:
        """Adds a pause: no act begins until it is resumed. The audit names the operator."""
        entry = self._make_operator_entry("paused", name, operator)
        self._commit(Decision(transitions.pause(self.state, name), entries=(entry,)))

    def resume(self, name: str | None, operator: str) -> bool:
        """Lifts a pause or a latch, or all; returns False where none has that name."""
        new_state = transitions.resume(self.state, name, self.context.clock.now_ms())
        lifted = (new_state.pauses, new_state.latches) != (self.state.pauses, self.state.latches)
        if lifted:
            entry = self._make_operator_entry("resumed", name or "everything", operator)
            self._commit(Decision(new_state, entries=(entry,)))
        return lifted

    def _make_operator_entry(self, event_name: str, name: str, operator: str) -> AuditEntry:
        return AuditEntry(self.context.clock.now_ms(), "", (), "", event_name, f"{name}, by {operator}")

    async def dry_run(self, name: str) -> Event:
        """Returns the outcome of a remedy's plan, for a firing alert where there is one; nothing is touched."""
        remedy = self.catalog[name]
        labels = self._find_firing_labels(remedy)
        act = Act(0, name, remedy.resource, (), True, remedy.reversible, Phase.STARTED, 0, ())
        job = self._make_plan_job(act, remedy, dict(labels or ()), observed=False)
        event = await run_in_thread(f"plan {name}", job)
        if labels is None and event.kind is not EventKind.INTENDED:
            event = event._replace(detail=f"{event.detail}; planned without labels, since none of its alerts fires")
        return event

    def _find_firing_labels(self, remedy: Remedy) -> Labels | None:
        alert_inputs = self.context.iter_alert_inputs(self.context.clock.now_ms())
        matching = (alert_input.alert for alert_input in alert_inputs if evidence.matches(remedy, alert_input))
        return next((alert.labels for alert in matching if alert.state is AlertState.FIRING), None)

    async def close(self) -> None:
        """Undoes the acts that are held only while the agent runs; other leases end by themselves, or are adopted."""
        for act in self.state.acts:
            claimants = [self.catalog[claim.remedy] for claim in act.claims if claim.remedy in self.catalog]
            if act.phase is Phase.HELD and claimants and all(remedy.rollback == "on_exit" for remedy in claimants):
                self._release_act(act)
        with contextlib.suppress(TimeoutError):  # the next start undoes the rest
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
