"""
Counts the series that a collector has lost though its passes succeed, so that a partial loss is not silent.

A series counts as lost where it vanished in the same pass in which a file became unreadable, and while that file stays
so. A series that vanishes without such a note has ended: a process, a CPU that went offline. A note that was there
before explains no loss: many hosts have a sensor that never answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.sampling.passes import CollectionResult, Outcome
from collectors import Labels, Sample

_PASSES_UNTIL_LOST = 5  # a slow BMC needs several passes for all its sensors
_QUIET_PASSES = 6  # passes without a note until the file counts as readable: some files are read in every sixth pass


@dataclass(slots=True)
class _Loss:
    """A series that is missing: the files that became unreadable with it, and the passes since."""

    paths: frozenset[str]
    missing_passes: int = 0
    quiet_passes: int = 0


class PartialLoss:
    """What one collector has lost since it last gave all its readings."""

    def __init__(self) -> None:
        self._last_samples: tuple[Sample, ...] = ()
        self._last_paths: frozenset[str] = frozenset()
        self._losses: dict[tuple[str, Labels], _Loss] = {}

    @property
    def missing_series(self) -> int:
        """The series that none of the last passes gave."""
        return sum(loss.missing_passes >= _PASSES_UNTIL_LOST for loss in self._losses.values())

    def record_result(self, result: CollectionResult) -> None:
        """Records a pass; one that failed as a whole loses nothing in part."""
        if result.outcome is not Outcome.OK:
            return
        paths = frozenset(note.path for note in result.notes)
        new_paths = paths - self._last_paths
        if self._losses or new_paths:  # otherwise, nearly always, no series need be compared
            present = _list_series(result.samples)
            self._update_losses(present, paths)
            if new_paths:
                for series in _list_series(self._last_samples) - present:
                    self._losses.setdefault(series, _Loss(new_paths, missing_passes=1))
        self._last_samples, self._last_paths = result.samples, paths

    def _update_losses(self, present: set[tuple[str, Labels]], paths: frozenset[str]) -> None:
        for series, loss in list(self._losses.items()):
            loss.missing_passes += 1
            loss.quiet_passes = 0 if paths & loss.paths else loss.quiet_passes + 1
            if series in present or loss.quiet_passes >= _QUIET_PASSES:
                del self._losses[series]


def _list_series(samples: Iterable[Sample]) -> set[tuple[str, Labels]]:
    return {(sample.metric.name, sample.labels) for sample in samples}
