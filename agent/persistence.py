"""What outlives the process: alerts go on with the time they have waited, and History with what was recorded."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import structlog

from agent.alerting.alert_store import AlertStore
from agent.loop import OWN, Loop
from agent.recorder.recorder import FOLDER, Recorder


def place(state: Path, root: str) -> Path:
    """The folder for what was seen below a root: pictures of machines must not mix with this one."""
    path = os.path.abspath(root)
    return state if path == "/" else state / f"root-{zlib.crc32(os.fsencode(path)):08x}"


class Continuity:
    """The alerts and the recording of one state folder, while an agent runs."""

    def __init__(self, folder: Path) -> None:
        self._log = structlog.get_logger()
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            self._log.warning("nothing will outlive this process", folder=str(folder), reason=error.strerror)
        self._store = AlertStore(folder)
        self._recorder = Recorder(folder / FOLDER)

    def resume(self, loop: Loop, collectors: Iterable[str], now_ms: int) -> None:
        """Goes on where the process before left off; before the first tick."""
        others = {OWN, *loop.rules.sampling_groups()}
        replayed = self._recorder.replay(loop.history, now_ms, collectors=set(collectors), others=others)
        saved = self._store.saved
        alerts = loop.rules.restore(saved.kept, now_ms, saved.saved_ms)
        loop.notifier.restore(saved.sent)
        loop.notifier.shift(min(0, now_ms - saved.saved_ms))
        if replayed.newest_ms is not None:
            away = (now_ms - replayed.newest_ms) / 1000
            self._log.info("went on where it was", alerts=alerts, rows=replayed.rows, seconds_away=away)

    def keep(self, loop: Loop, now_ms: int) -> None:
        """After a tick: has what changed written."""
        self._store.save(loop.rules.kept(), loop.notifier.sent, now_ms)
        self._recorder.append(loop.history, now_ms)

    def stepped(self, delta_ms: int) -> None:
        """The wall clock stepped."""
        self._recorder.stepped(delta_ms)

    def close(self, loop: Loop, now_ms: int) -> None:
        """Writes what is left."""
        self._store.wait()
        self._store.save(loop.rules.kept(), loop.notifier.sent, now_ms)
        self._store.close()
        self._recorder.close(loop.history, now_ms)
