"""What outlives the process: alerts go on with the time they have waited, and History with what was recorded."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import structlog

from agent.alerting.alert_store import AlertStore
from agent.loop import SELF_GROUP, Loop
from agent.recorder.recorder import FOLDER, Recorder


def state_dir_of_root(state: Path, root: str) -> Path:
    """The folder for what was seen below a root: pictures of machines must not mix with this one."""
    path = os.path.abspath(root)
    return state if path == "/" else state / f"root-{zlib.crc32(os.fsencode(path)):08x}"


class Persistence:
    """The alerts and the recording of one state folder, while an agent runs."""

    def __init__(self, folder: Path) -> None:
        self._log = structlog.get_logger()
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            self._log.warning("nothing will outlive this process", folder=str(folder), reason=error.strerror)
        self._alert_store = AlertStore(folder)
        self._recorder = Recorder(folder / FOLDER)

    def restore(self, loop: Loop, collectors: Iterable[str], now_ms: int) -> None:
        """Goes on where the process before left off; before the first tick."""
        other_groups = {SELF_GROUP, *loop.rules.sampling_groups()}
        replayed = self._recorder.replay(loop.history, now_ms, collectors=set(collectors), others=other_groups)
        saved = self._alert_store.saved_state
        alerts = loop.rules.restore_alerts(saved.alerts, now_ms, saved.saved_ms)
        loop.notifier.restore(saved.last_sent_ms)
        loop.notifier.shift(min(0, now_ms - saved.saved_ms))
        if replayed.newest_ms is not None:
            seconds_away = (now_ms - replayed.newest_ms) / 1000
            self._log.info("went on where it was", alerts=alerts, rows=replayed.rows, seconds_away=seconds_away)

    def save(self, loop: Loop, now_ms: int) -> None:
        """After a tick: has what changed written."""
        self._alert_store.save(loop.rules.export_alerts(), loop.notifier.last_sent_ms, now_ms)
        self._recorder.flush_if_due(loop.history, now_ms)

    def shift(self, delta_ms: int) -> None:
        """The wall clock stepped."""
        self._recorder.shift(delta_ms)

    def close(self, loop: Loop, now_ms: int) -> None:
        """Writes what is left."""
        self._alert_store.wait()
        self._alert_store.save(loop.rules.export_alerts(), loop.notifier.last_sent_ms, now_ms)
        self._alert_store.close()
        self._recorder.close(loop.history, now_ms)
