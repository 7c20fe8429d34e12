"""
Guards the steps of a loop: a fault in one step ends neither the other steps nor the loop.

Such a fault is often in passing: a process with no file descriptor left cannot read /proc for a moment (EMFILE), and
that ended the agent once. What ends a program (CancelledError, KeyboardInterrupt, SystemExit) passes through.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from agent.runtime.errors import describe_fault

MAX_FRAMES = 5  # places that a log line names


@dataclass
class StepFault:
    """A step that fails now: its newest reason, and how many times it has failed one after another."""

    step: str
    part: str
    reason: str
    kind: type[Exception]
    times: int = 1

    def __str__(self) -> str:
        """Names the step, its part and the kind of the fault; strangers may read this, so the reason is left out."""
        return f"{' '.join(filter(None, (self.step, self.part)))} ({self.kind.__name__})"


class StepGuard:
    """Catches, counts and logs the faults of steps."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Faults by step since the start; a step that has never failed has 0."""
        self._faults: dict[tuple[str, str], StepFault] = {}
        self._log = structlog.get_logger()

    @property
    def faults(self) -> list[StepFault]:
        """The steps whose last run failed."""
        return list(self._faults.values())

    @contextlib.contextmanager
    def guard(self, step: str, part: str = "") -> Iterator[None]:
        """Runs the block as a step, or as a part of one; afterwards the code behind the block runs in any case."""
        self.counts[step] += 0
        try:
            yield
        except Exception as error:  # whatever the fault of a step is, the other steps must go on
            self._note_fault(step, part, error)
        else:
            self._note_success(step, part)

    def _note_fault(self, step: str, part: str, error: Exception) -> None:
        self.counts[step] += 1
        previous = self._faults.get((step, part))
        fault = StepFault(step, part, describe_fault(error), type(error))
        self._faults[step, part] = fault
        if previous is not None and previous.kind is fault.kind:
            fault.times = previous.times + 1
            return  # logged when it began: a step may run each second, and the numbers in its reasons may differ
        self._log.error(
            "a step failed; the others go on, and the next turn tries it again",
            **_name(step, part),
            reason=fault.reason,
            at=_list_frames(error),
        )

    def _note_success(self, step: str, part: str) -> None:
        fault = self._faults.pop((step, part), None)
        if fault is not None:
            self._log.info("a step works again", **_name(step, part), failures=fault.times)


def _list_frames(error: Exception) -> str:
    """Returns the innermost places that the fault passed, the last first: a traceback takes 40 lines of the log."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    return " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def _name(step: str, part: str) -> dict[str, str]:
    return {"step": step, "part": part} if part else {"step": step}
