"""
How far back rules look, against how far back History reaches.

A rule that looks further would be evaluated over half of its range and be wrong without a sign. It alone is refused:
rule files of users come in whole mixins, and one range of 6 h must not cost the other rules, or the agent.
"""

from __future__ import annotations

from collections.abc import Iterator

from rules.durations import format_duration
from rules.model import Group, Rule, RuleSet


def describe_excess(group: Group, rule: Rule, keep_ms: int) -> str:
    """Describes a rule that looks back further than History keeps samples; empty for a rule that does not."""
    reach_ms = rule.query.reach_ms + group.query_offset_ms
    if reach_ms <= keep_ms:
        return ""
    reach = format_duration(reach_ms)
    return (
        f'{group.file}:{rule.line}: group "{group.name}", "{rule.name}": looks back {reach}, further than the '
        f"{format_duration(keep_ms)} of sample.keep, so the agent does not evaluate it; "
        f"set sample.keep to {reach} or more, or shorten the range"
    )


def iter_excesses(rules: RuleSet, keep_ms: int) -> Iterator[str]:
    """Yields a sentence for each rule that looks back further than History keeps samples."""
    for group in rules.groups:
        for rule in group.rules:
            if sentence := describe_excess(group, rule, keep_ms):
                yield sentence
