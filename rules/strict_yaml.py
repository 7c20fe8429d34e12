"""
YAML as Prometheus reads it: scalars keep their source text, a key may not stand twice, everything knows its place.

`a: yes`, `a: 1.0` and `a: 0x10` are the texts "yes", "1.0" and "0x10"; `~` and nothing are "". Anchors, aliases and
merge keys work; only the first document counts. https://pkg.go.dev/gopkg.in/yaml.v3
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

DEEPEST = 50  # libyaml's composer recurses in C: a file of 200,000 brackets would end the process
MOST_EVENTS = 500_000  # a rule takes about thirty
LARGEST = 16 << 20  # bytes

_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"
_OPENS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_CLOSES = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML without libyaml is slower, not different


class Mark(NamedTuple):
    """A place in a file; both count from 1."""

    line: int
    column: int


class StrictYamlError(Exception):
    """The text is not the YAML it should be; `mark` says where."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar's text; `quoted` tells "1" from 1."""

    text: str
    mark: Mark
    quoted: bool
    empty: bool
    """True for null."""

    @property
    def described(self) -> str:
        return "nothing" if self.empty else f'"{self.text[:60]}"'


@dataclass(frozen=True, slots=True)
class Listing:
    """A sequence."""

    values: tuple[Value, ...]
    mark: Mark
    empty = False
    described = "a list"


class Table(Mapping[str, "Value"]):
    """A mapping, in the order of the file; `marks` are the places of the keys."""

    empty = False
    described = "a mapping"

    def __init__(self, values: Mapping[str, Value], mark: Mark, marks: Mapping[str, Mark] | None = None) -> None:
        self.values_by_key = values
        self.mark = mark
        self.marks = marks or {}

    def __getitem__(self, key: str) -> Value:
        return self.values_by_key[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_key)

    def __len__(self) -> int:
        return len(self.values_by_key)


Value = Scalar | Listing | Table


def load(raw: bytes) -> Value | None:
    """The first document, or None where there is none; raises StrictYamlError and nothing else."""
    try:
        text = raw.decode("utf-8-sig")
        if len(raw) > LARGEST:
            raise StrictYamlError(Mark(1, 1), f"larger than {LARGEST} bytes; expected a file people write")
        _measured(text)
        node = _composed(text)
    except UnicodeDecodeError as error:
        raise StrictYamlError(_place(raw, error.start), f"not UTF-8 text: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        raise StrictYamlError(_mark(error.problem_mark), f"yaml: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise StrictYamlError(Mark(1, 1), f"yaml: {' '.join(str(error).split())}") from None
    return None if node is None or _is_null(node) else _Converter().value(node)


def _composed(text: str) -> yaml.Node | None:
    loader = _LOADER(text)
    try:
        node: yaml.Node | None = loader.get_node() if loader.check_node() else None
        return node
    finally:
        loader.dispose()


def _measured(text: str) -> None:
    """Depth and length are seen on the stream of events, which needs no recursion."""
    extent = _Extent()
    for event in yaml.parse(text, Loader=_LOADER):
        extent.see(event)
        if len(extent.within) > DEEPEST:
            raise StrictYamlError(_mark(event.start_mark), f"nested more than {DEEPEST} deep")
        if extent.elements > MOST_EVENTS:
            raise StrictYamlError(_mark(event.start_mark), f"more than {MOST_EVENTS} elements, aliases written out")
        if extent.characters > LARGEST:
            raise StrictYamlError(_mark(event.start_mark), f"more than {LARGEST} characters, aliases written out")


class _Extent:
    """
    How much was seen of a document; an alias is as much as what it stands for.

    Who walks the values meets it as often as it is named: 200 rules named in 200 groups are 40,000 rules.
    """

    def __init__(self) -> None:
        self.elements = 0
        self.characters = 0
        self.within: list[tuple[str | None, int, int]] = []
        self._anchored: dict[str | None, tuple[int, int]] = {}

    def see(self, event: yaml.Event) -> None:
        before = self.elements, self.characters
        elements, characters = 0, len(event.value) if isinstance(event, yaml.ScalarEvent) else 0
        if isinstance(event, yaml.AliasEvent):
            elements, characters = self._anchored.get(event.anchor, (0, 0))
        self.elements += 1 + elements
        self.characters += characters
        if isinstance(event, _OPENS):
            self.within.append((event.anchor, *before))
        elif isinstance(event, _CLOSES):
            self._close(*self.within.pop())
        elif isinstance(event, yaml.ScalarEvent):
            self._close(event.anchor, *before)

    def _close(self, anchor: str | None, elements: int, characters: int) -> None:
        if anchor is not None:
            self._anchored[anchor] = self.elements - elements, self.characters - characters


def _place(raw: bytes, at: int) -> Mark:
    before = raw[:at]
    return Mark(before.count(b"\n") + 1, at - before.rfind(b"\n"))


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL


class _Converter:
    """Nodes to values; an aliased node is converted once, and one inside itself is an error."""

    def __init__(self) -> None:
        self.done: dict[int, Value] = {}
        self.open: set[int] = set()

    def value(self, node: yaml.Node) -> Value:
        if id(node) in self.done:
            return self.done[id(node)]
        mark = _mark(node.start_mark)
        if id(node) in self.open:
            raise StrictYamlError(mark, "yaml: anchor contains itself")
        self.open.add(id(node))
        self.done[id(node)] = made = self.converted(node, mark)
        self.open.discard(id(node))
        return made

    def converted(self, node: yaml.Node, mark: Mark) -> Value:
        if isinstance(node, yaml.ScalarNode):
            empty = node.tag == _NULL
            return Scalar("" if empty else str(node.value), mark, node.style is not None, empty)
        if isinstance(node, yaml.SequenceNode):
            return Listing(tuple(map(self.value, node.value)), mark)
        return self.mapping(node, mark)

    def mapping(self, node: yaml.Node, mark: Mark) -> Table:
        values: dict[str, Value] = {}
        marks: dict[str, Mark] = {}
        merged: list[Table] = []
        for key, value in node.value:
            place = _mark(key.start_mark)
            if key.tag == _MERGE:
                merged += self.merged(value, place)
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise StrictYamlError(place, "yaml: a key must be a scalar")
            if key.value in values:
                line = marks[key.value].line
                raise StrictYamlError(place, f'mapping key "{key.value}" already defined at line {line}')
            values[key.value], marks[key.value] = self.value(value), place
        for table in merged:
            values = {**table, **values}
            marks = {**table.marks, **marks}
        return Table(values, mark, marks)

    def merged(self, node: yaml.Node, place: Mark) -> list[Table]:
        value = self.value(node)
        tables = list(value.values) if isinstance(value, Listing) else [value]
        if not all(isinstance(table, Table) for table in tables):
            raise StrictYamlError(place, "map merge requires map or sequence of maps as the value")
        return [table for table in tables if isinstance(table, Table)]
