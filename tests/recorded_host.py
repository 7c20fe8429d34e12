"""A host whose History is recorded, through restarts and shifts of the clock, for tests of the recorder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agent.recorder.recorder import Recorder, RetentionLimits
from collectors import Sample, counter, gauge
from rules.history.history import History
from rules.history.rows import Rows
from rules.promql import compile as promql

START = 1_700_000_000_000
SECOND = 1000
MINUTE = 60 * SECOND
HOT = gauge("hot", "Heat.")
WORK = counter("work_total", "Work.")


class RecordedHost:
    """Samples each second and records; `start` begins another process on the same folder."""

    def __init__(self, folder: Path, limits: RetentionLimits | None = None) -> None:
        self.folder = folder
        self.limits = limits or RetentionLimits()
        self.now_ms = START
        self.work = 0.0
        self.start()

    def start(self) -> int:
        self.history = History(60 * MINUTE)
        self.recorder = Recorder(self.folder, self.limits)
        replayed = self.recorder.replay(self.history, self.now_ms, collectors={"heat"}, others={"rules:x"})
        return replayed.rows

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.now_ms += SECOND
            self.work += 2.0
            self.history.record(
                "heat", self.now_ms, [Sample(HOT, (("dimm", "1"),), self.now_ms / 7), build_work_sample(self.work)]
            )
            self.flush()

    def flush(self) -> None:
        self.recorder.flush_if_due(self.history, self.now_ms)
        assert self.recorder.wait(20)

    def shift(self, delta_ms: int) -> None:
        self.now_ms += delta_ms
        self.history.shift(delta_ms)
        self.recorder.shift(delta_ms)

    def close(self) -> None:
        self.recorder.close(self.history, self.now_ms)

    def query(self, text: str) -> list[float]:
        return promql(text).evaluate_at(self.history, self.now_ms).values.tolist()


def build_work_sample(value: float) -> Sample:
    return Sample(WORK, (), value)


def collect_readings(rows: Iterable[Rows]) -> dict[tuple[str, str], list[tuple[int, bytes]]]:
    """Returns every reading with all its bits, by group and series."""
    readings: dict[tuple[str, str], list[tuple[int, bytes]]] = {}
    for block in rows:
        for column, metric in enumerate(block.heading.metrics):
            series = readings.setdefault((block.heading.group, f"{metric.name}{block.heading.labels[column]}"), [])
            for row, at_ms in enumerate(block.times.tolist()):
                if block.present is None or block.present[column, row]:
                    series.append((at_ms, block.values[column, row].tobytes()))
    return readings


def list_times(rows: Iterable[Rows]) -> list[int]:
    return sorted({at_ms for each in rows for at_ms in each.times.tolist()})
