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
from agent.runtime.threads import run_in_thread
from agent.runtime.writer_thread import WriterThread
from agent.storage.state_dir import StateDir, StateError
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
        self.baseline = Baseline()
        self.plant_learner = PlantLearner(None, pacing_settings)
        self._state = state
        self._history = history
        self._clock = clock
        self._log = structlog.get_logger()
        self._writer = WriterThread("the baselines")
        self._unread: dict[str, Callable[[str], bool]] = {
            baseline_handover.BASELINE_FILE: self.baseline.restore,
            learner.STATE_FILE: self.plant_learner.restore,
        }
        self._reported: set[str] = set()
        self._restore(self._read_files())

    def add_jobs(self, scheduler: Scheduler) -> None:
        """Schedules learning and saving."""
        now = self._clock.now_ms
        scheduler.add_job(LEARN_INTERVAL, lambda: self.baseline.learn(self._history, now()), name="learn baselines")
        scheduler.add_job(LEARN_INTERVAL, self._adopt, name="adopt baselines")
        scheduler.add_job(
            learner.OBSERVE_SECONDS, lambda: self.plant_learner.observe(self._history, now()), name="learn plants"
        )
        scheduler.add_job(SAVE_INTERVAL, self.retry_and_save, name="save baselines")

    async def _adopt(self) -> None:
        if baseline_handover.BASELINE_FILE not in self._unread:  # adopting writes the file
            await baseline_handover.adopt(self._state, self.baseline)

    async def retry_and_save(self) -> None:
        """Restores what could not be read before, and saves; the files are read and written in threads."""
        if self._unread:
            self._restore(await run_in_thread("read baselines", self._read_files))
        self.save()

    def save(self) -> None:
        """Hands both to the thread that writes them to the state folder; a failure is logged."""
        dumps = {
            baseline_handover.BASELINE_FILE: self.baseline.dump,
            learner.STATE_FILE: self.plant_learner.to_json,
        }
        texts = {name: dump() for name, dump in dumps.items() if name not in self._unread}
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
            self._log.warning("baselines cannot be saved", folder=folder, reason=error.strerror)

    def _read_files(self) -> Mapping[str, str | StateError | None]:
        """Returns the text of each file that is not restored yet; None where there is none, or why it has none."""
        texts: dict[str, str | StateError | None] = {}
        for name in tuple(self._unread):
            try:
                texts[name] = self._state.read(name)
            except StateError as error:
                texts[name] = error
        return texts

    def _restore(self, texts: Mapping[str, str | StateError | None]) -> None:
        """Restores what was read. A file stays unread, and is not written, while the disk refuses it."""
        for name, text in texts.items():
            if isinstance(text, StateError):
                if text.is_passing:
                    self._report(name, f"{text}; until then it stays as it is, and is tried again")
                    continue
                self._move_aside(name, str(text))
            elif text is not None and not self._unread[name](text):
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
