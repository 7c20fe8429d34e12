"""Decides which events and reasons are worth a line of the audit, and writes the lines to the log and the counters."""

from __future__ import annotations

from typing import Any

import structlog

from agent.actions import Steered
from agent.remediation.model import Act, AuditEntry, Event, EventKind, Phase
from agent.text.event_words import describe_event

MOVE_KINDS = (EventKind.RETUNING.value, EventKind.RETUNED.value)  # not in the audit: a controller moves each second
STEER_REPORT_SECONDS = 60.0  # seconds between two lines of the audit on the reason of a controller


class AuditLog:
    """Remembers failures and reasons that were logged, so that repetitions are not."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        """The number of events by remedy and kind."""
        self._failures: dict[int, set[tuple[Phase, str]]] = {}
        self._steer_reports: dict[int, tuple[str, float]] = {}
        self._log = structlog.get_logger()

    def log_entry(self, entry: AuditEntry) -> None:
        """Counts and logs an entry; the moves of a controller are only counted."""
        self.counts[entry.remedy, entry.what] = self.counts.get((entry.remedy, entry.what), 0) + 1
        if entry.what in MOVE_KINDS:
            return
        log = self._log.info if entry.observed or entry.what != "gave up" else self._log.error
        log(
            f"remedy: {describe_event(entry.what, observed=entry.observed)}",
            remedy=entry.remedy,
            resource=entry.resource,
            says=entry.says or None,
        )

    def is_repetition(self, act: Act, event: Event) -> bool:
        """Repeated identical renewals and repeated failures to undo are not logged again."""
        if event.kind not in (EventKind.FAILED, EventKind.UNKNOWN):
            had_failures = self._failures.pop(act.id, None)
            return not had_failures and event.kind is EventKind.RETUNED and act.ours == (event.value,)
        failures = self._failures.setdefault(act.id, set())
        failure = (act.phase, "" if act.phase is Phase.HELD else event.detail)
        is_known = failure in failures
        failures.add(failure)
        return is_known

    def is_steering_due(self, act: Act, memory: Any, now: float) -> bool:
        """True when a controller's reason has changed, once a minute at most: a sensor may come and go."""
        reason, since = self._steer_reports.get(act.id, ("", -float("inf")))
        if not isinstance(memory, Steered) or memory.reason == reason or now - since < STEER_REPORT_SECONDS:
            return False
        self._steer_reports[act.id] = (memory.reason, now)
        return True

    def forget_ended_acts(self, open_ids: set[int]) -> None:
        """Drops the memory of acts that have ended."""
        self._failures = {number: failures for number, failures in self._failures.items() if number in open_ids}
        self._steer_reports = {number: report for number, report in self._steer_reports.items() if number in open_ids}
