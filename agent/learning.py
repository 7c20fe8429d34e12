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
from agent.runtime.writer_thread import WriterThread
from agent.storage.state_dir import StateDir
from rules.history.history import History

LEARN_INTERVAL = 5.0  # seconds between observations for the baselines
SAVE_INTERVAL = 60.0  # seconds between writes to the state folder
CLOSE_TIMEOUT = 2.0  # seconds for each wait for the disk when the agent ends


class Learning:
    """Loads the baselines and models of earlier runs, and continues to learn while the agent runs."""

    def __init__(
        self,
        state: StateDir,
        history: History,
        clock: Clock,
        pacing_settings: Callable[[], Mapping[str, ControlSettings]],
    ) -> None:
        self.baseline = Baseline(state.read(baseline_handover.BASELINE_FILE))
        self.plant_learner = PlantLearner(state.read(learner.STATE_FILE), pacing_settings)
        self._state = state
        self._history = history
        self._clock = clock
        self._writer = WriterThread("the baselines")

    def add_jobs(self, scheduler: Scheduler) -> None:
        """Schedules learning and saving."""
        now = self._clock.now_ms
        scheduler.add_job(LEARN_INTERVAL, lambda: self.baseline.learn(self._history, now()), name="learn baselines")
        adopt = baseline_handover.adopt
        scheduler.add_job(LEARN_INTERVAL, lambda: adopt(self._state, self.baseline), name="adopt baselines")
        scheduler.add_job(
            learner.OBSERVE_SECONDS, lambda: self.plant_learner.observe(self._history, now()), name="learn plants"
        )
        scheduler.add_job(SAVE_INTERVAL, self.save, name="save baselines")

    def save(self) -> None:
        """Hands both to the thread that writes them to the state folder; a failure is logged."""
        texts = {
            baseline_handover.BASELINE_FILE: self.baseline.dump(),
            learner.STATE_FILE: self.plant_learner.to_json(),
        }
        self._writer.submit(lambda: self._write(texts))

    def close(self) -> None:
        """Saves, and waits a few seconds for the disk."""
        self._writer.wait(CLOSE_TIMEOUT)
        self.save()
        self._writer.close(CLOSE_TIMEOUT)

    def _write(self, texts: Mapping[str, str]) -> None:
        try:
            for name, text in texts.items():
                self._state.write(name, text)
        except OSError as error:
            folder = str(self._state.path)
            structlog.get_logger().warning("baselines cannot be saved", folder=folder, reason=error.strerror)
