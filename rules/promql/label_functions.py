"""
label_replace and label_join: new labels from existing ones.

The replacement text has Go's syntax: https://pkg.go.dev/regexp#Regexp.Expand
"""

from __future__ import annotations

import re
from typing import Any

from collectors import Labels
from rules.matchers import compile_pattern, is_valid_name
from rules.promql.plan import PromqlError
from rules.promql.values import LabelSets

_PIECE = re.compile(r"\$(?:(?P<dollar>\$)|(?P<bare>\w+)|\{(?P<braced>\w+)\})", re.ASCII)


def label_replace(labels: LabelSets, texts: tuple[str, ...]) -> LabelSets:
    """Sets `target` to the expanded replacement in each label set whose source label matches the whole pattern."""
    target, replacement, source, expression = texts
    _check_name("label_replace", target)
    try:
        compiled = compile_pattern(expression)
    except ValueError as error:
        raise PromqlError(f"invalid regular expression in label_replace(): {expression}") from error
    return tuple(_replace_label(each, compiled, target, replacement, source) for each in labels)


def _replace_label(labels: Labels, compiled: Any, target: str, replacement: str, source: str) -> Labels:
    match = compiled.fullmatch(dict(labels).get(source, ""))
    return labels if match is None else set_label(labels, target, expand_template(match, replacement))


def expand_template(match: Any, template: str) -> str:
    """Expands `$1`, `${1}` and `$name` as Go does; the longest name counts, and a missing group is empty."""

    def substitute(piece: re.Match[str]) -> str:
        if piece["dollar"]:
            return "$"
        name = piece["bare"] or piece["braced"]
        groups: dict[str, str | None] = match.groupdict()
        if not name.isdecimal():
            return groups.get(name) or ""
        return (match.group(int(name)) or "") if int(name) <= len(match.groups()) else ""

    return _PIECE.sub(substitute, template)


def label_join(labels: LabelSets, texts: tuple[str, ...]) -> LabelSets:
    """Sets `target` to the joined values of the source labels."""
    target, separator, *sources = texts
    _check_name("label_join", target)
    for source in sources:
        if not is_valid_name(source):
            raise PromqlError(f"invalid source label name in label_join(): {source}")
    joined = []
    for label_set in labels:
        values = dict(label_set)
        joined.append(set_label(label_set, target, separator.join(values.get(source, "") for source in sources)))
    return tuple(joined)


def _check_name(function: str, target: str) -> None:
    if not is_valid_name(target):
        raise PromqlError(f"invalid destination label name in {function}(): {target}")


def set_label(labels: Labels, name: str, value: str) -> Labels:
    """Sets one label, or removes it if the value is empty."""
    rest = [pair for pair in labels if pair[0] != name]
    return tuple(sorted([*rest, (name, value)])) if value else tuple(rest)
