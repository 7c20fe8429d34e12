"""Log lines of the tick: one when a state changes, none while it stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog

from agent.sampling.collector_state import CollectorState
from agent.sampling.passes import CollectionResult, Outcome
from rules.state import RuleHealth


class TickLog:
    """Remembers what was logged last of each collector and rule."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._stuck_collectors: set[str] = set()
        self._rule_faults: set[tuple[str, str]] = set()
        self._log = structlog.get_logger()

    def log_shift(self, shift_ms: int) -> None:
        """Logs that the wall clock was set."""
        self._log.warning("the wall clock shifted; every stored time shifts with it", seconds=shift_ms / 1000)

    def log_results(self, results: Iterable[CollectionResult]) -> None:
        """Logs each collector whose outcome, or whose set of missing readings, differs from the last one logged."""
        for result in results:
            self._log_result(result)

    def _log_result(self, result: CollectionResult) -> None:
        reason = result.error or "; ".join(f"{note.path}: {note.reason}" for note in result.notes[:3])
        # Compared by path: threads deliver notes in any order, and the numbers in their reasons differ each second.
        state = f"{result.outcome.value}|{result.error is None and sorted({note.path for note in result.notes})}"
        previous = self._states.get(result.collector, "")
        if previous == state:
            return
        self._states[result.collector] = state
        log = self._log.bind(collector=result.collector)
        if result.outcome is Outcome.FAILED:
            log.warning("collector failed", reason=reason, missing=len(result.notes))
        elif result.outcome is Outcome.REFUSED:
            log.info("not readable by this user; `steadytok check` says what to do", reason=reason)
        elif result.outcome is Outcome.ABSENT and reason:
            log.info("this machine does not have it", reason=reason)
        elif result.outcome is Outcome.OK and reason:
            log.info("some readings are missing", reason=reason, missing=len(result.notes))
        elif previous and result.outcome is Outcome.OK and not previous.startswith(Outcome.ABSENT.value):
            log.info("collector recovered")

    def log_stuck_reads(self, states: Mapping[str, CollectorState]) -> None:
        """Logs each collector whose read passed its deadline: a read that never returns gives no result to log."""
        stuck_collectors = {name for name, state in states.items() if state.is_overdue}
        for name in sorted(stuck_collectors - self._stuck_collectors):
            self._log.warning("a read does not return; the other collectors continue", collector=name)
        self._stuck_collectors = stuck_collectors

    def log_rule_faults(self, health: Iterable[RuleHealth]) -> None:
        """Logs each rule that begins to fail, and each that evaluates again."""
        # Pairs, not a mapping: two rules of a group may have the same name, and different faults.
        faults = {(f"{rule.group}: {rule.name}", rule.error) for rule in health if rule.error}
        if faults == self._rule_faults:
            return
        for name, error in sorted(faults - self._rule_faults):
            self._log.warning("rule failed", rule=name, reason=error)
        for name in sorted({name for name, _ in self._rule_faults} - {name for name, _ in faults}):
            self._log.info("rule recovered", rule=name)
        self._rule_faults = faults
