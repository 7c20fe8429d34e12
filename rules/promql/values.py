"""The values that pass between plan nodes: instant vectors, windows over time, and the context of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from collectors import Labels
from rules.history.blocks import Floats, Times
from rules.history.selection import Selection
from rules.history.series_index import SelectionKeeper
from rules.matchers import NAME, Matchers
from rules.promql.plan import Memo, Node, PromqlError

Bools = npt.NDArray[np.bool_]
LabelSets = tuple[Labels, ...]

MAX_CELLS = 10_000_000
"""The limit of one array: 80 MB."""

MAX_TOTAL_CELLS = 40_000_000
"""The limit of all arrays of one evaluation: an operator holds its first side while the second is computed."""

MAX_VISITS = 1_000_000_000
"""The limit of cells that one evaluation visits: a few seconds at worst."""

LABEL_SET_COST = 100
"""The cost of processing one set of labels, in cell visits."""

MAX_VALUE_LENGTH = 16_384
"""Characters of a label value that an expression makes: 20 nested label_replace() could double one a million times."""

MAX_LABEL_BYTES = 128 << 20
"""Estimated bytes of all label sets that one evaluation makes: a join of twenty thousand series makes 15 MB."""

_LABEL_SET_BYTES = 64
_LABEL_BYTES = 8  # its place in the label set
_PAIR_BYTES = 72  # the tuple of a name and a value
_CHARACTER_BYTES = 4  # at most, in Python's strings

MAX_LABELS_TEXT = 1_000
"""Characters of labels in an error."""

SAME_LABELSET = "vector cannot contain metrics with the same labelset"


class SampleSource(Protocol):
    """A source of series: History, or a snapshot of it."""

    def select(self, matchers: Matchers, keeper: SelectionKeeper | None = None) -> Selection: ...


class Series(NamedTuple):
    """An instant vector at every step: `values` and `present` are [series, steps]; None means present throughout."""

    labels: LabelSets
    values: Floats
    present: Bools | None

    def mask(self) -> Bools:
        """Returns `present` as an array."""
        return np.ones(self.values.shape, np.bool_) if self.present is None else self.present


class Strip(NamedTuple):
    """Some series of a range vector that have a value in every row; step i sees the rows low[i] to high[i]."""

    times: Times
    values: Floats
    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    rows: slice | npt.NDArray[np.intp]

    def reduce(self, ufunc: np.ufunc, values: Floats, skip: int = 0) -> Floats:
        """
        Applies `ufunc` to each window, without its first `skip` rows; [series, steps], meaningless for an empty one.
        """
        if len(self.low) == 1:
            low, high = int(self.low[0]) + skip, int(self.high[0])
            if low >= high:
                return np.zeros((len(values), 1))
            single: Floats = ufunc.reduce(values[:, low:high], axis=1, keepdims=True)
            return single
        edges = np.empty(2 * len(self.low), np.intp)
        edges[0::2], edges[1::2] = np.minimum(self.low + skip, len(self.times)), self.high
        padded = np.concatenate([values, np.zeros((len(values), 1))], axis=1)
        reduced: Floats = ufunc.reduceat(padded, edges, axis=1)[:, 0::2]
        return np.where(self.high - self.low > skip, reduced, 0.0) if skip else reduced

    def window_sizes(self) -> Floats:
        """Returns the number of rows in each window; [steps]."""
        return (self.high - self.low).astype(np.float64)

    def first_rows(self) -> npt.NDArray[np.intp]:
        """Returns the first row of each window, a valid row even if the window is empty."""
        return np.minimum(self.low, len(self.times) - 1)

    def last_rows(self) -> npt.NDArray[np.intp]:
        """Returns the last row of each window, a valid row even if the window is empty."""
        return np.maximum(self.high - 1, 0)


class QueryBudget:
    """The remaining cost that one evaluation may cause, so that no expression fills the memory or blocks the host."""

    __slots__ = ("_held_cells", "_label_bytes", "_max_held_cells", "_max_label_bytes", "_remaining_visits")

    def __init__(
        self, cells: int = MAX_TOTAL_CELLS, visits: int = MAX_VISITS, label_bytes: int = MAX_LABEL_BYTES
    ) -> None:
        self._held_cells = 0
        self._max_held_cells = cells
        self._remaining_visits = visits
        self._label_bytes = 0
        self._max_label_bytes = label_bytes

    def release(self) -> None:
        """Starts the next of several evaluations with one budget: what the previous one made is freed."""
        self._held_cells = self._label_bytes = 0

    def reserve(self, series: int, cells_each: int) -> None:
        """Accounts for an array before it is made; raises PromqlError if it would be too large."""
        if series * cells_each > MAX_CELLS:
            raise PromqlError(
                f"the query would hold {series} x {cells_each} cells at once, and {MAX_CELLS:,} are allowed; "
                f"use fewer series, a shorter range or a longer step"
            )
        self._held_cells += series * cells_each
        if self._held_cells > self._max_held_cells:
            raise PromqlError(
                f"the query would hold more than {self._max_held_cells:,} cells (series x steps) in all its parts; "
                f"use fewer series, a shorter range or a longer step"
            )
        self.spend(series * cells_each)

    def reserve_labels(self, label_sets: Collection[Labels], *, shares_pairs: bool = True) -> None:
        """
        Accounts for label sets that have their texts, or even their pairs of name and value, from others.

        Raises PromqlError if the whole evaluation makes too many.
        """
        per_label = _LABEL_BYTES if shares_pairs else _LABEL_BYTES + _PAIR_BYTES
        self.reserve_bytes(_LABEL_SET_BYTES * len(label_sets) + per_label * sum(map(len, label_sets)))

    def reserve_value(self, function: str, length: int, label_count: int) -> None:
        """Accounts for a label set with a new value, before that is made; raises PromqlError if it is too long."""
        if length > MAX_VALUE_LENGTH:
            raise PromqlError(
                f"{function} would make a label value of {length:,} characters, and {MAX_VALUE_LENGTH:,} are allowed; "
                f"use a shorter one"
            )
        labels = _LABEL_SET_BYTES + _LABEL_BYTES * (label_count + 1) + _PAIR_BYTES
        self.reserve_bytes(labels + _CHARACTER_BYTES * length)

    def reserve_bytes(self, count: int) -> None:
        """Accounts for memory of labels; raises PromqlError if the whole evaluation makes too many."""
        self._label_bytes += count
        if self._label_bytes > self._max_label_bytes:
            raise PromqlError(
                f"the query would make more than {self._max_label_bytes >> 20} MiB of labels in all its parts; "
                f"use fewer series, fewer operations or shorter label values"
            )

    def spend(self, cells: int) -> None:
        """Accounts for cells before they are visited; raises PromqlError if the whole evaluation visits too many."""
        self._remaining_visits -= cells
        if self._remaining_visits < 0:
            raise PromqlError(
                f"the query would visit more than {MAX_VISITS:,} cells (series x steps x window); "
                f"use fewer series, a shorter range or a longer step"
            )


@dataclass(frozen=True)
class Windows:
    """A range vector at every step; a window holds start < time <= end."""

    labels: LabelSets
    strips: tuple[Strip, ...]
    starts: Times
    ends: Times
    range_ms: int

    def count_visits(self) -> int:
        """Counts the cells of all windows; a cell in several windows counts for each."""
        return sum(len(strip.values) * int((strip.high - strip.low).sum()) for strip in self.strips)


@dataclass(frozen=True)
class EvaluationContext:
    """The History and the times of an evaluation: one time in ms per step."""

    history: SampleSource
    times: Times
    start_ms: int
    end_ms: int
    evaluate: Callable[[Node, EvaluationContext], Series | Floats | str]
    select_windows: Callable[[Node, EvaluationContext], Windows]
    budget: QueryBudget = field(default_factory=QueryBudget)

    def evaluate_series(self, node: Node) -> Series:
        """Evaluates the node as an instant vector."""
        value = self.evaluate(node, self)
        if not isinstance(value, Series):
            raise PromqlError("expected an instant vector")
        return value

    def evaluate_scalar(self, node: Node) -> Floats:
        """Evaluates the node as one number per step."""
        value = self.evaluate(node, self)
        if not isinstance(value, np.ndarray):
            raise PromqlError("expected a scalar")
        return value

    def evaluate_text(self, node: Node) -> str:
        """Evaluates the node as a string."""
        value = self.evaluate(node, self)
        if not isinstance(value, str):
            raise PromqlError("expected a string")
        return value

    def evaluate_windows(self, node: Node) -> Windows:
        """Evaluates the node as a range vector."""
        return self.select_windows(node, self)


def drop_metric_name(labels: Labels) -> Labels:
    """Removes the metric name; labels without one are returned as they are."""
    kept = tuple([pair for pair in labels if pair[0] != NAME])
    return labels if len(kept) == len(labels) else kept


def drop_metric_names(label_sets: LabelSets, budget: QueryBudget) -> LabelSets:
    """Removes the metric name from each label set; if none has one, the result is the same object."""
    budget.spend(len(label_sets))
    without_names = tuple([drop_metric_name(labels) for labels in label_sets])
    if all(a is b for a, b in zip(label_sets, without_names, strict=True)):
        return label_sets
    budget.reserve_labels(without_names)
    return without_names


def format_labels(labels: Iterable[tuple[str, str]]) -> str:
    """Formats labels as Prometheus prints them."""
    pairs = list(labels)
    name = next((value for key, value in pairs if key == NAME), "")
    inner = ", ".join(f'{key}="{value[:MAX_LABELS_TEXT]}"' for key, value in pairs if key != NAME)
    return f"{name}{{{inner if len(inner) <= MAX_LABELS_TEXT else f'{inner[:MAX_LABELS_TEXT]}…'}}}"


def merge_same_labels(series: Series, memo: Memo, error: str = SAME_LABELSET, *, allow_join: bool = True) -> Series:
    """
    Merges series with the same label set, which must not be present at the same step.

    Raises PromqlError with that text if they are, or, without `allow_join`, if two of them are present at all.
    """
    merged = memo.get_or_compute((series.labels,), lambda: _merge_label_sets(series.labels))
    if merged is None:
        return series
    labels, rows = merged
    present = series.mask()
    if not allow_join and (np.bincount(rows, present.any(axis=1)) > 1).any():
        raise PromqlError(error)
    counts = np.zeros((len(labels), present.shape[1]), np.intp)
    np.add.at(counts, rows, present)
    if (counts > 1).any():
        raise PromqlError(error)
    values = np.zeros(counts.shape)
    series_at, step_at = np.nonzero(present)
    values[rows[series_at], step_at] = series.values[series_at, step_at]
    return Series(labels, values, counts > 0)


def _merge_label_sets(labels: LabelSets) -> tuple[LabelSets, npt.NDArray[np.intp]] | None:
    row_numbers: dict[Labels, int] = {}
    rows = [row_numbers.setdefault(each, len(row_numbers)) for each in labels]
    if len(row_numbers) == len(labels):
        return None
    return tuple(row_numbers), np.array(rows, np.intp)
