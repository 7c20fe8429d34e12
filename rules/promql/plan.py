"""
The immutable plan of an expression: its nodes, independent of the parser.

Between evaluations a node never drops rows, but marks them absent. So results that depend on labels alone are computed
once per set of labels, and cached in the node's Memo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from rules.history.series_index import SelectionKeeper
from rules.matchers import Matchers

ValueKind = Literal["vector", "scalar", "matrix", "string"]
LOOKBACK_MS = 300_000

_T = TypeVar("_T")


class PromqlError(Exception):
    """An expression is invalid or cannot be evaluated; the message is a sentence for the user."""


class Memo:
    """Caches the last result of a computation that depends on labels alone, while the labels are the same objects."""

    __slots__ = ("_cached",)

    def __init__(self) -> None:
        self._cached: tuple[tuple[object, ...], Any] = ((), None)

    def get_or_compute(self, key: tuple[object, ...], compute: Callable[[], _T]) -> _T:
        """Returns `compute()`, or its last result if each part of the key is the same object as then."""
        cached_key, result = self._cached
        if len(cached_key) == len(key) and all(a is b for a, b in zip(cached_key, key, strict=True)):
            cached: _T = result
            return cached
        computed = compute()
        self._cached = (key, computed)
        return computed


@dataclass(frozen=True, eq=False)
class Number:
    """A literal number."""

    value: float


@dataclass(frozen=True, eq=False)
class Text:
    """A literal string."""

    value: str


@dataclass(frozen=True)
class TimeModifiers:
    """`offset` and `@` of a selector or subquery; `at_ms` may be the start or end of the query."""

    offset_ms: int = 0
    at_ms: int | Literal["start", "end"] | None = None


@dataclass(frozen=True, eq=False)
class VectorSelector:
    """An instant vector selector; `keeper` holds what it selects from one evaluation to the next."""

    matchers: Matchers
    time_modifiers: TimeModifiers
    keeper: SelectionKeeper = field(default_factory=SelectionKeeper, repr=False)


@dataclass(frozen=True, eq=False)
class MatrixSelector:
    """A range vector selector: `select[range]`."""

    selector: VectorSelector
    range_ms: int


@dataclass(frozen=True, eq=False)
class Subquery:
    """A subquery: `inner[range:step]`."""

    inner: Node
    range_ms: int
    step_ms: int
    time_modifiers: TimeModifiers


@dataclass(frozen=True, eq=False)
class Call:
    """A function call with its arguments."""

    name: str
    arguments: tuple[Node, ...]
    memo: Memo = field(default_factory=Memo, repr=False)
    merge_memo: Memo = field(default_factory=Memo, repr=False)


@dataclass(frozen=True, eq=False)
class Negate:
    """Unary minus."""

    inner: Node
    memo: Memo = field(default_factory=Memo, repr=False)
    merge_memo: Memo = field(default_factory=Memo, repr=False)


@dataclass(frozen=True, eq=False)
class Aggregate:
    """An aggregation; with `without`, the `labels` are dropped instead of kept."""

    op: str
    inner: Node
    parameter: Node | None
    labels: tuple[str, ...]
    without: bool
    memo: Memo = field(default_factory=Memo, repr=False)


@dataclass(frozen=True)
class Matching:
    """How the series of two vectors are matched."""

    card: Literal["one-to-one", "many-to-one", "one-to-many", "many-to-many"] = "one-to-one"
    on: bool = False
    labels: tuple[str, ...] = ()
    include: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Binary:
    """A binary operator with its two expressions."""

    op: str
    lhs: Node
    rhs: Node
    return_bool: bool
    matching: Matching
    memo: Memo = field(default_factory=Memo, repr=False)
    union_memo: Memo = field(default_factory=Memo, repr=False)
    merge_memo: Memo = field(default_factory=Memo, repr=False)


Node = Number | Text | VectorSelector | MatrixSelector | Subquery | Call | Negate | Aggregate | Binary

SCALAR_CALLS = frozenset({"scalar", "time", "pi"})


def infer_kind(node: Node) -> ValueKind:
    """Returns the type of a node's value, in Prometheus' terms."""
    if isinstance(node, Number):
        return "scalar"
    if isinstance(node, Text):
        return "string"
    if isinstance(node, MatrixSelector | Subquery):
        return "matrix"
    if isinstance(node, Call):
        return "scalar" if node.name in SCALAR_CALLS else "vector"
    if isinstance(node, Negate):
        return infer_kind(node.inner)
    if isinstance(node, Binary):
        return "scalar" if infer_kind(node.lhs) == infer_kind(node.rhs) == "scalar" else "vector"
    return "vector"


def list_children(node: Node) -> tuple[Node, ...]:
    """Returns the direct children of a node."""
    if isinstance(node, Binary):
        return (node.lhs, node.rhs)
    if isinstance(node, Call):
        return node.arguments
    if isinstance(node, Aggregate):
        return (node.inner,) if node.parameter is None else (node.inner, node.parameter)
    if isinstance(node, Subquery | Negate):
        return (node.inner,)
    if isinstance(node, MatrixSelector):
        return (node.selector,)
    return ()


def iter_selectors(node: Node) -> Iterator[VectorSelector]:
    """Yields every selector of the plan."""
    if isinstance(node, VectorSelector):
        yield node
    for child in list_children(node):
        yield from iter_selectors(child)


def compute_reach_ms(node: Node, lookback_ms: int = LOOKBACK_MS) -> int:
    """Returns how far before its evaluation time a plan reads."""
    if isinstance(node, VectorSelector):
        return lookback_ms + max(0, node.time_modifiers.offset_ms)
    if isinstance(node, MatrixSelector):
        return node.range_ms + max(0, node.selector.time_modifiers.offset_ms)
    below = max((compute_reach_ms(child, lookback_ms) for child in list_children(node)), default=0)
    if isinstance(node, Subquery):
        return below + node.range_ms + max(0, node.time_modifiers.offset_ms)
    return below
