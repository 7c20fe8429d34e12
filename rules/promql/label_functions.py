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
from rules.promql.values import MAX_LABELS_TEXT, LabelSets, QueryBudget

_PIECE = re.compile(r"\$(?:(?P<dollar>\$)|(?P<bare>\w+)|\{(?P<braced>\w+)\})", re.ASCII)


def label_replace(label_sets: LabelSets, texts: tuple[str, ...], budget: QueryBudget) -> LabelSets:
    """Sets `target` to the expanded replacement in each label set whose source label matches the whole pattern."""
    target, replacement, source, expression = texts
    _check_name("label_replace", target)
    try:
        compiled = compile_pattern(expression)
    except ValueError as error:
        excerpt, reason = expression[:MAX_LABELS_TEXT], error.__cause__ or error
        raise PromqlError(f"invalid regular expression in label_replace(): {excerpt}: {reason}") from error
    template = _ReplacementTemplate(replacement)
    replaced = []
    for labels in label_sets:
        match = compiled.fullmatch(dict(labels).get(source, ""))
        if match is not None:
            budget.spend(len(template.pieces))
            pieces = template.expand(match)
            budget.reserve_value("label_replace()", sum(map(len, pieces)), len(labels))
            labels = set_label(labels, target, "".join(pieces))
        replaced.append(labels)
    return tuple(replaced)


class _ReplacementTemplate:
    """A replacement text with `$1`, `${1}` and `$name`; the longest name counts, and a missing group is empty."""

    def __init__(self, text: str) -> None:
        self.pieces: list[tuple[str, bool]] = []  # a text, or the name of a group and True
        end = 0
        for reference in _PIECE.finditer(text):
            self.pieces.append((text[end : reference.start()], False))
            self.pieces.append(
                ("$", False) if reference["dollar"] else (reference["bare"] or reference["braced"], True)
            )
            end = reference.end()
        self.pieces.append((text[end:], False))
        self._names = {piece for piece, is_group in self.pieces if is_group}

    def expand(self, match: Any) -> list[str]:
        """Returns the pieces of the expanded text, which are yet to be joined."""
        if not self._names:
            return [piece for piece, _ in self.pieces]
        groups: dict[str, str | None] = {**match.groupdict(), "0": match.group()}
        groups |= {str(number): text for number, text in enumerate(match.groups(), 1)}
        values = {name: groups.get(name.lstrip("0") or "0" if name.isdecimal() else name) or "" for name in self._names}
        return [values[piece] if is_group else piece for piece, is_group in self.pieces]


def label_join(label_sets: LabelSets, texts: tuple[str, ...], budget: QueryBudget) -> LabelSets:
    """Sets `target` to the joined values of the source labels."""
    target, separator, *sources = texts
    _check_name("label_join", target)
    for source in sources:
        if not is_valid_name(source):
            raise PromqlError(f"invalid source label name in label_join(): {source}")
    joined = []
    for labels in label_sets:
        budget.spend(len(sources))
        names = dict(labels)
        values = [names.get(source, "") for source in sources]
        length = sum(map(len, values)) + len(separator) * max(0, len(sources) - 1)
        budget.reserve_value("label_join()", length, len(labels))
        joined.append(set_label(labels, target, separator.join(values)))
    return tuple(joined)


def _check_name(function: str, target: str) -> None:
    if not is_valid_name(target):
        raise PromqlError(f"invalid destination label name in {function}(): {target}")


def set_label(labels: Labels, name: str, value: str) -> Labels:
    """Sets one label, or removes it if the value is empty."""
    rest = [pair for pair in labels if pair[0] != name]
    return tuple(sorted([*rest, (name, value)])) if value else tuple(rest)
