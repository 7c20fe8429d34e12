"""Learns the baselines of engines and the thermal models of their DIMMs from History, and saves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from agent.engines import baseline_handover
from agent.engines.baseline import Baseline
from agent.pacing import learner
from agent.pacing.learner import PlantLearner
from agent.pacing.settings import ControlSettings
from agent.runtime.clock import Clock
from agent.runtime.scheduler import Scheduler
from agent.storage.state_dir import StateDir, StateError
from rules.history.history import History

LEARN_INTERVAL = 5.0  # seconds between observations for the baselines
SAVE_INTERVAL = 60.0  # seconds between writes to the state folder


class Learning:
    """Loads the baselines and models of earlier runs, and continues to learn while the agent runs."""

    def __init__(
        self,
        state: StateDir,
        history: History,
        clock: Clock,
        pacing_settings: Callable[[], Mapping[str, ControlSettings]],
    ) -> None:
        self.baseline = Baseline()
        self.plant_learner = PlantLearner(None, pacing_settings)
        self._state = state
        self._history = history
        self._clock = clock
        self._log = structlog.get_logger()
        self._unread: dict[str, Callable[[str], bool]] = {
            baseline_handover.BASELINE_FILE: self.baseline.restore,
            learner.STATE_FILE: self.plant_learner.restore,
        }
        self._reported: set[str] = set()
        self._read_files()

    def _read_files(self) -> None:
        """Restores what is not restored yet. A file stays unread, and is not written, while the disk refuses it."""
        for name, restore in list(self._unread.items()):
            try:
                text = self._state.read(name)
            except StateError as error:
                if error.is_passing:
                    self._report(name, f"{error}; until then it stays as it is, and is tried again")
                    continue
                self._move_aside(name, str(error))
            else:
                if text is not None and not restore(text):
                    self._move_aside(name, "its content is damaged")
            del self._unread[name]

    def _report(self, name: str, reason: str) -> None:
        if name not in self._reported:
            self._log.warning("what was learnt cannot be read now; learning anew", file=name, reason=reason)
        self._reported.add(name)

    def _move_aside(self, name: str, reason: str) -> None:
        try:
            aside = self._state.move_aside(name)
        except OSError as error:
            self._log.warning("a damaged file cannot be moved aside", file=name, reason=error.strerror)
        else:
            self._log.warning("a damaged file was moved aside; learning anew", aside=str(aside), reason=reason)

    def add_jobs(self, scheduler: Scheduler) -> None:
        """Schedules learning and saving."""
        now = self._clock.now_ms
        scheduler.add_job(LEARN_INTERVAL, lambda: self.baseline.learn(self._history, now()))
        scheduler.add_job(LEARN_INTERVAL, self._adopt)
        scheduler.add_job(learner.OBSERVE_SECONDS, lambda: self.plant_learner.observe(self._history, now()))
        scheduler.add_job(SAVE_INTERVAL, self.save)

    def _adopt(self) -> None:
        if baseline_handover.BASELINE_FILE not in self._unread:  # adopting writes the file
            baseline_handover.adopt(self._state, self.baseline)

    def save(self) -> None:
        """Writes both to the state folder; a failure is logged."""
        self._read_files()
        texts = {
            baseline_handover.BASELINE_FILE: self.baseline.dump,
            learner.STATE_FILE: self.plant_learner.to_json,
        }
        try:
            for name, dump in texts.items():
                if name not in self._unread:
                    self._state.write(name, dump())
        except OSError as error:
            folder = str(self._state.path)
            self._log.warning("baselines cannot be saved", folder=folder, reason=error.strerror)
