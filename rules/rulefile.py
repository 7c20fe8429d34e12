"""
Reads Prometheus rule files, strictly: https://prometheus.io/docs/prometheus/latest/configuration/recording_rules/.

After prometheus/model/rulefmt: unknown keys are errors, scalars keep their source text (`1.0`, `yes`, `0x10`), and all
errors of all files are reported together. Names of labels, annotations and metrics may be any UTF-8, as since
Prometheus 3; Alertmanager accepts such labels since 0.27.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collectors import read_regular_file
from rules.dependencies import MAX_DEPENDENCIES, TooManyDependenciesError, find_dependencies
from rules.durations import parse_duration
from rules.matchers import is_valid_name
from rules.model import Group, Rule, RuleSet, Templates
from rules.numbers import FLOAT, INTEGER, parse_integer
from rules.promql import PromqlError, Query
from rules.promql import compile as compile_query
from rules.strict_yaml import Listing, Mark, Scalar, StrictYamlError, Table, Value, load_yaml
from rules.templates.template import Template, TemplateError

BUILTIN = Path(__file__).parent / "builtin"
"""The folder of the rules that ship with the agent: `*.yml`."""

MAX_RULES = 20_000
"""Of one file; an alias counts each time it is used."""

MAX_BYTES = 32 << 20
"""Of one file; 20,000 rules have some 10 MiB."""

_MAX_DIGITS = 100  # int() of a long string of digits is slow, and no limit is as long
_FILE_KEYS = ("groups",)
_GROUP_KEYS = ("name", "interval", "query_offset", "limit", "labels", "rules")
_RULE_KEYS = ("record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations")


class RuleFileError(Exception):
    """The rule files have errors; each of the `messages` has the file, the line and the column."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


def load_rules(paths: Sequence[Path], *, subquery_step_ms: int = 60_000) -> RuleSet:
    """
    Loads the rules of these files; raises RuleFileError with every error of every file.

    `subquery_step_ms` is the step of `[5m:]`, in Prometheus the global evaluation interval.
    """
    messages: list[str] = []
    groups: list[Group] = []
    for path in paths:
        reader = _FileReader(str(path), subquery_step_ms)
        groups += reader.read(path)
        messages += reader.messages
    if messages:
        raise RuleFileError(messages)
    rule_set = RuleSet(tuple(groups))
    _check_dependencies(rule_set)
    return rule_set


def _check_dependencies(rule_set: RuleSet) -> None:
    """Raises RuleFileError if the dependencies would fill the memory: a chain of n rules has n * n / 2 of them."""
    try:
        find_dependencies(tuple(rule_set.rules), MAX_DEPENDENCIES)
    except TooManyDependenciesError as error:
        rules = [(group, rule) for group in rule_set.groups for rule in group.rules]
        group, rule = rules[error.index]
        limit = f"recording rules may build on each other {MAX_DEPENDENCIES:,} times"
        message = f"{group.file}:{rule.line}: {rule.name} builds on too many rules: {limit}; shorten the chain"
        raise RuleFileError([message]) from None


@dataclass
class _FileReader:
    """Reads one file; collects its errors in `messages` instead of raising them."""

    file: str
    subquery_step_ms: int
    messages: list[str] = field(default_factory=list)
    location: str = ""

    def report(self, mark: Mark, message: str) -> None:
        self.messages.append(f"{self.file}: {mark.line}:{mark.column}: {self.location}{message}")

    def read(self, path: Path) -> list[Group]:
        repeated: list[StrictYamlError] = []
        try:
            root = load_yaml(read_regular_file(path, MAX_BYTES), repeated)
        except OSError as error:
            self.messages.append(f"{self.file}: cannot be read: {error.strerror}")
            return []
        except StrictYamlError as error:
            self.report(error.mark, str(error))
            return []
        for fault in repeated:
            self.report(fault.mark, str(fault))
        return [] if root is None else list(self.read_groups(root))

    def read_groups(self, root: Value) -> Iterator[Group]:
        table = self.expect_table(root, "a mapping with the key groups")
        self.check_keys(table, _FILE_KEYS)
        values = self.expect_sequence(table.get("groups"), "groups: a list of rule groups")
        count = sum(map(_count_rules, values))
        if count > MAX_RULES:
            self.report(table["groups"].mark, f"{count:,} rules, and a file may have {MAX_RULES:,}; split it")
            return
        group_names: set[str] = set()
        for value in values:
            group = self.read_group(value)
            if group.name and group.name in group_names:
                self.report(value.mark, f'groupname: "{group.name}" is repeated in the same file')
            group_names.add(group.name)
            yield group

    def read_group(self, value: Value) -> Group:
        table = self.expect_table(value, "a rule group")
        name = self.read_text(table, "name")
        if not name:
            self.report(value.mark, "Groupname must not be empty")
        self.location = f'group "{name}": '
        self.check_keys(table, _GROUP_KEYS)
        labels = self.read_labels(table, "labels")
        interval_ms = self.read_duration(table, "interval")
        offset_ms = self.read_duration(table, "query_offset")
        limit = self.read_integer(table, "limit")
        values = self.expect_sequence(table.get("rules"), "rules: a list of rules")
        rules = [self.read_rule(name, number, rule, labels) for number, rule in enumerate(values, start=1)]
        self.location = ""
        return Group(self.file, name, tuple(rule for rule in rules if rule), interval_ms, offset_ms, limit)

    def read_rule(self, group: str, number: int, value: Value, group_labels: dict[str, Scalar]) -> Rule | None:
        error_count = len(self.messages)
        self.location = f'group "{group}", rule {number}: '
        table = self.expect_table(value, "a rule")
        record, alert = self.read_text(table, "record"), self.read_text(table, "alert")
        self.location = f'group "{group}", rule {number}, "{alert or record}": '
        self.check_keys(table, _RULE_KEYS)
        self.check_kind(value.mark, record, alert)
        if record:
            self.check_record_name(table, record)
        query = self.read_query(value.mark, table)
        labels = self.parse_templates(alert, "label", {**group_labels, **self.read_labels(table, "labels")})
        annotations = self.parse_templates(alert, "annotation", self.read_annotations(table, record))
        durations = (
            self.read_alert_duration(table, "for", record),
            self.read_alert_duration(table, "keep_firing_for", record),
        )
        if query is None or len(self.messages) > error_count:
            return None
        kind, name = ("alert", alert) if alert else ("record", record)
        return Rule(kind, name, query, labels, annotations, *durations, line=value.mark.line)

    def check_kind(self, mark: Mark, record: str, alert: str) -> None:
        if record and alert:
            self.report(mark, "only one of 'record' and 'alert' must be set")
        if not record and not alert:
            self.report(mark, "one of 'record' or 'alert' must be set")

    def check_record_name(self, table: Table, record: str) -> None:
        if "{" in record or "}" in record:
            message = f"braces present in the recording rule name; should it be in expr?: {record}"
            self.report(table["record"].mark, message)
        elif not is_valid_name(record):
            self.report(table["record"].mark, f"invalid recording rule name: {record}")

    def read_query(self, mark: Mark, table: Table) -> Query | None:
        text = self.read_text(table, "expr")
        if not text:
            self.report(mark, "field 'expr' must be set in rule")
            return None
        try:
            return compile_query(text, subquery_step_ms=self.subquery_step_ms)
        except PromqlError as error:
            self.report(table["expr"].mark, f"could not parse expression: {error}")
            return None

    def read_labels(self, table: Table, key: str) -> dict[str, Scalar]:
        labels = self.read_strings(table, key)
        for name, value in labels.items():
            if not is_valid_name(name) or name == "__name__":
                self.report(value.mark, f"invalid label name: {name}")
        return labels

    def read_annotations(self, table: Table, record: str) -> dict[str, Scalar]:
        annotations = self.read_strings(table, "annotations")
        if record and annotations:
            self.report(table["annotations"].mark, "invalid field 'annotations' in recording rule")
        for name, value in annotations.items():
            if not is_valid_name(name):
                self.report(value.mark, f"invalid annotation name: {name}")
        return annotations

    def parse_templates(self, alert: str, item: str, texts: dict[str, Scalar]) -> Templates:
        templates: list[tuple[str, Template]] = []
        for name, value in texts.items():
            try:
                templates.append(
                    (name, Template.parse(alert, value.text) if alert else Template.from_literal(value.text))
                )
            except TemplateError as error:
                self.report(value.mark, f'{item} "{name}": {error}')
        return tuple(sorted(templates, key=lambda pair: pair[0]))

    def read_alert_duration(self, table: Table, key: str, record: str) -> int:
        ms = self.read_duration(table, key)
        if record and ms:
            self.report(table[key].mark, f"invalid field '{key}' in recording rule")
        return ms

    # -- YAML values to Python values

    def expect_table(self, value: Value, expected: str) -> Table:
        if isinstance(value, Table):
            return value
        self.report(value.mark, f"expected {expected}, found {value.description}")
        return Table({}, value.mark)

    def check_keys(self, table: Table, allowed_keys: Sequence[str]) -> None:
        for key, mark in table.marks.items():
            if key not in allowed_keys:
                self.report(mark, f"field {key} not found; expected one of {', '.join(allowed_keys)}")

    def expect_sequence(self, value: Value | None, expected: str) -> Sequence[Value]:
        if value is None or isinstance(value, Listing):
            return value.values if value else ()
        if not value.empty:
            self.report(value.mark, f"expected {expected}, found {value.description}")
        return ()

    def read_scalar(self, table: Table, key: str, expected: str) -> Scalar | None:
        value = table.get(key)
        if value is None or isinstance(value, Scalar):
            return value
        self.report(value.mark, f"{key}: expected {expected}, found {value.description}")
        return None

    def read_text(self, table: Table, key: str) -> str:
        value = self.read_scalar(table, key, "text")
        return value.text if value else ""

    def read_strings(self, table: Table, key: str) -> dict[str, Scalar]:
        value = table.get(key)
        if value is None or value.empty:
            return {}
        if not isinstance(value, Table):
            self.report(value.mark, f"{key}: expected a mapping of names to text, found {value.description}")
            return {}
        pairs = ((name, self.read_scalar(value, name, "text")) for name in value)
        return {name: text for name, text in pairs if text is not None}

    def read_duration(self, table: Table, key: str) -> int:
        return self.parse_scalar(table, key, "a duration such as 5m or 1h30m", parse_duration)

    def read_integer(self, table: Table, key: str) -> int:
        value = table.get(key)
        if isinstance(value, Scalar) and value.quoted:
            self.report(value.mark, f"{key}: the quotes make {value.description} a text; expected a whole number")
            return 0
        return self.parse_scalar(table, key, "a whole number", _parse_integer)

    def parse_scalar(self, table: Table, key: str, expected: str, parse: Callable[[str], int]) -> int:
        value = self.read_scalar(table, key, expected)
        if value is None or value.empty:
            return 0
        try:
            return parse(value.text)
        except ValueError as error:
            self.report(value.mark, f"{key}: {error}; expected {expected}")
            return 0


def _count_rules(group: Value) -> int:
    rules = group.get("rules") if isinstance(group, Table) else None
    return len(rules.values) if isinstance(rules, Listing) else 0


def _parse_integer(text: str) -> int:
    """Parses a whole number as Go's YAML does: 0x10, 0o17, 017, 0b11, 1_000 and 1e3 too."""
    plain = text.replace("_", "") if text[:1] != "_" and len(text) <= _MAX_DIGITS else ""
    number: float = math.nan
    if INTEGER.fullmatch(plain):
        number = parse_integer(plain)
    elif FLOAT.fullmatch(plain):
        number = float(plain)
    if not -(1 << 63) <= number < 1 << 63 or number % 1:
        raise ValueError(f'not a whole number: "{text}"')
    return int(number)
