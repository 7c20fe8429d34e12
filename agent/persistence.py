"""Saves the state that outlives the process: alerts and History."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog

from agent.alerting.alert_store import AlertStore, SavedState
from agent.alerting.notifier import Notifier
from agent.recorder.recorder import FOLDER, Recorder
from rules.alerts import AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History


class Persistence:
    """Saves and restores alerts and History in one state folder."""

    def __init__(self, folder: Path) -> None:
        self._log = structlog.get_logger()
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            sentence = "the state folder cannot be created; state will not survive a restart"
            self._log.warning(sentence, folder=str(folder), reason=error.strerror)
        self._alert_store = AlertStore(folder)
        self._recorder = Recorder(folder / FOLDER)

    def restore(
        self,
        history: History,
        rules: RuleEvaluator,
        notifier: Notifier,
        collectors: Iterable[str],
        now_ms: int,
        others: Iterable[str] = (),
    ) -> None:
        """
        Restores the state that the previous process saved; called before the first tick.

        `collectors` and `others` are the sampling groups to restore, beside those of the rules; see `Recorder.replay`.
        """
        other_groups = {*others, *rules.list_sampling_groups()}
        replayed = self._recorder.replay(history, now_ms, collectors=set(collectors), others=other_groups)
        alerts = _restore_alerts(self._alert_store.saved_state, rules, notifier, now_ms)
        if replayed.newest_ms is not None:
            seconds_away = (now_ms - replayed.newest_ms) / 1000
            self._log.info("state restored", alerts=alerts, rows=replayed.rows, seconds_away=seconds_away)

    def save_alerts(self, rules: RuleEvaluator, notifier: Notifier, now_ms: int) -> None:
        """Hands the alerts that changed to the thread that writes them; restores those that could not be read."""
        late_state = self._alert_store.take_late_state()
        if late_state is not None:
            alerts = _restore_alerts(late_state, rules, notifier, now_ms)
            self._log.info("state restored, now that its file can be read", alerts=alerts)
        self._alert_store.save(rules.export_alerts(), notifier.last_sent_ms, now_ms)

    def record(self, history: History, now_ms: int) -> None:
        """Hands new rows of History to the thread that writes them."""
        self._recorder.flush_if_due(history, now_ms)

    def shift(self, delta_ms: int) -> None:
        """Moves the recorder's times after a shift of the wall clock."""
        self._recorder.shift(delta_ms)

    def close(self, history: History, rules: RuleEvaluator, notifier: Notifier, now_ms: int) -> None:
        """Writes what is not yet on disk, and closes the files."""
        self._alert_store.wait()
        self._alert_store.save(rules.export_alerts(), notifier.last_sent_ms, now_ms)
        self._alert_store.close()
        self._recorder.close(history, now_ms)


def _restore_alerts(saved: SavedState, rules: RuleEvaluator, notifier: Notifier, now_ms: int) -> int:
    """Restores the alerts and the times of their sending; returns how many alerts found their rule."""
    current = {(alert.rule, alert.alert.labels) for alert in rules.export_alerts()}
    # A condition that ended before the restart, and began anew before this file could be read, is the newer one.
    missed = [
        alert
        for alert in saved.alerts
        if alert.alert.state is not AlertState.RESOLVED or (alert.rule, alert.alert.labels) not in current
    ]
    delta_ms = min(0, now_ms - saved.saved_ms)  # the clock was set back meanwhile
    last_sent_ms = {labels: sent_ms + delta_ms for labels, sent_ms in saved.last_sent_ms.items()}
    notifier.restore({**last_sent_ms, **notifier.last_sent_ms})
    return rules.restore_alerts(missed, now_ms, saved.saved_ms)
