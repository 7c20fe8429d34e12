"""
Loads YAML as Prometheus does: scalars keep their source text, duplicate keys are errors, values know their position.

`a: yes`, `a: 1.0` and `a: 0x10` are the texts "yes", "1.0" and "0x10"; `~` and nothing are "". Anchors, aliases and
merge keys work; only the first document counts. https://pkg.go.dev/gopkg.in/yaml.v3
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

MAX_DEPTH = 50  # libyaml's composer recurses in C: a file of 200,000 brackets would crash the process
MAX_EVENTS = 500_000  # a rule takes about thirty
MAX_BYTES = 16 << 20

_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"
_START_EVENTS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_END_EVENTS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML without libyaml is slower but behaves the same


class Mark(NamedTuple):
    """A position in a file; both numbers count from 1."""

    line: int
    column: int


class StrictYamlError(Exception):
    """The text is not valid YAML, or not allowed here; `mark` is the position."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark


@dataclass(frozen=True, slots=True)
class Scalar:
    """The text of a scalar; `quoted` distinguishes "1" from 1."""

    text: str
    mark: Mark
    quoted: bool
    empty: bool
    """True for null."""

    @property
    def description(self) -> str:
        return "nothing" if self.empty else f'"{self.text[:60]}"'


@dataclass(frozen=True, slots=True)
class Listing:
    """A sequence."""

    values: tuple[Value, ...]
    mark: Mark
    empty = False
    description = "a list"


class Table(Mapping[str, "Value"]):
    """A mapping, in the order of the file; `marks` has the positions of the keys."""

    empty = False
    description = "a mapping"

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


def load_yaml(raw: bytes, repeated: list[StrictYamlError] | None = None) -> Value | None:
    """
    Loads the first document, or None if there is none; raises only StrictYamlError.

    Keys that repeat another are added to `repeated`, so that they hide no further fault; without a list they raise.
    """
    try:
        text = raw.decode("utf-8-sig")
        if len(raw) > MAX_BYTES:
            raise StrictYamlError(Mark(1, 1), f"larger than {MAX_BYTES} bytes; expected a file written by hand")
        _check_size(text)
        node = _compose(text)
    except UnicodeDecodeError as error:
        raise StrictYamlError(_find_mark(raw, error.start), f"not UTF-8 text: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        raise StrictYamlError(_convert_mark(error.problem_mark), f"yaml: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise StrictYamlError(Mark(1, 1), f"yaml: {' '.join(str(error).split())}") from None
    return None if node is None or _is_null(node) else _Converter(repeated).convert(node)


def _compose(text: str) -> yaml.Node | None:
    loader = _LOADER(text)
    try:
        node: yaml.Node | None = loader.get_node() if loader.check_node() else None
        return node
    finally:
        loader.dispose()


def _check_size(text: str) -> None:
    """Checks depth and size on the stream of events, which needs no recursion."""
    counter = _SizeCounter()
    for event in yaml.parse(text, Loader=_LOADER):
        counter.count_event(event)
        if len(counter.open_nodes) > MAX_DEPTH:
            raise StrictYamlError(_convert_mark(event.start_mark), f"nested more than {MAX_DEPTH} deep")
        if counter.elements > MAX_EVENTS:
            raise StrictYamlError(
                _convert_mark(event.start_mark), f"more than {MAX_EVENTS} elements, with aliases expanded"
            )
        if counter.characters > MAX_BYTES:
            raise StrictYamlError(
                _convert_mark(event.start_mark), f"more than {MAX_BYTES} characters, with aliases expanded"
            )


class _SizeCounter:
    """
    Counts the elements and characters of a document; an alias counts as much as its anchor.

    Code that walks the values visits an alias each time it is used: 200 rules used in 200 groups are 40,000 rules.
    """

    def __init__(self) -> None:
        self.elements = 0
        self.characters = 0
        self.open_nodes: list[tuple[str | None, int, int]] = []
        self._anchor_sizes: dict[str | None, tuple[int, int]] = {}

    def count_event(self, event: yaml.Event) -> None:
        previous = self.elements, self.characters
        elements, characters = 0, len(event.value) if isinstance(event, yaml.ScalarEvent) else 0
        if isinstance(event, yaml.AliasEvent):
            elements, characters = self._anchor_sizes.get(event.anchor, (0, 0))
        self.elements += 1 + elements
        self.characters += characters
        if isinstance(event, _START_EVENTS):
            self.open_nodes.append((event.anchor, *previous))
        elif isinstance(event, _END_EVENTS):
            self._record_anchor(*self.open_nodes.pop())
        elif isinstance(event, yaml.ScalarEvent):
            self._record_anchor(event.anchor, *previous)

    def _record_anchor(self, anchor: str | None, elements: int, characters: int) -> None:
        if anchor is not None:
            self._anchor_sizes[anchor] = self.elements - elements, self.characters - characters


def _find_mark(raw: bytes, offset: int) -> Mark:
    before = raw[:offset]
    return Mark(before.count(b"\n") + 1, offset - before.rfind(b"\n"))


def _convert_mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL


class _Converter:
    """Converts nodes to values; converts an aliased node once, and rejects a node inside itself."""

    def __init__(self, repeated: list[StrictYamlError] | None) -> None:
        self.repeated = repeated
        self.values: dict[int, Value] = {}
        self.in_progress: set[int] = set()

    def convert(self, node: yaml.Node) -> Value:
        if id(node) in self.values:
            return self.values[id(node)]
        mark = _convert_mark(node.start_mark)
        if id(node) in self.in_progress:
            raise StrictYamlError(mark, "yaml: anchor contains itself")
        self.in_progress.add(id(node))
        self.values[id(node)] = value = self.convert_node(node, mark)
        self.in_progress.discard(id(node))
        return value

    def convert_node(self, node: yaml.Node, mark: Mark) -> Value:
        if isinstance(node, yaml.ScalarNode):
            empty = node.tag == _NULL
            return Scalar("" if empty else str(node.value), mark, bool(node.style), empty)
        if isinstance(node, yaml.SequenceNode):
            return Listing(tuple(map(self.convert, node.value)), mark)
        return self.convert_mapping(node, mark)

    def convert_mapping(self, node: yaml.Node, mark: Mark) -> Table:
        values: dict[str, Value] = {}
        marks: dict[str, Mark] = {}
        merged_tables: list[Table] = []
        for key, value in node.value:
            key_mark = _convert_mark(key.start_mark)
            if key.tag == _MERGE:
                merged_tables += self.resolve_merge(value, key_mark)
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise StrictYamlError(key_mark, "yaml: a key must be a scalar")
            if key.value in values:
                line = marks[key.value].line
                fault = StrictYamlError(key_mark, f'mapping key "{key.value}" already defined at line {line}')
                if self.repeated is None:
                    raise fault
                self.repeated.append(fault)
                continue
            values[key.value], marks[key.value] = self.convert(value), key_mark
        for table in merged_tables:
            values = {**table, **values}
            marks = {**table.marks, **marks}
        return Table(values, mark, marks)

    def resolve_merge(self, node: yaml.Node, mark: Mark) -> list[Table]:
        value = self.convert(node)
        tables = list(value.values) if isinstance(value, Listing) else [value]
        if not all(isinstance(table, Table) for table in tables):
            raise StrictYamlError(mark, "map merge requires map or sequence of maps as the value")
        return [table for table in tables if isinstance(table, Table)]
