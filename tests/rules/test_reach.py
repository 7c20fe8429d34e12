"""A rule that looks back further than History keeps is refused alone, with the same sentence before and in a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rules.reach import iter_excesses
from tests.rules.evaluated_host import HOUR, SECOND, Host, load_rule_text


@pytest.mark.parametrize(
    ("expr", "head", "reach"),
    [
        ("max_over_time(hot[6h])", "", "6h"),
        ("predict_linear(hot[6h], 14400)", "", "6h"),
        ("hot offset 1h", "", "1h5m"),
        ("rate(hot[30m] offset 31m)", "", "1h1m"),
        ("max_over_time(rate(hot[5m])[2h:1m])", "", "2h5m"),
        ("hot > 1 and on() vector(1) unless max_over_time(hot[90m]) > 5", "", "1h30m"),
        ("max_over_time(hot[59m])", "  query_offset: 2m\n", "1h1m"),
    ],
)
def test_one_long_rule_is_refused_alone(tmp_path: Path, expr: str, head: str, reach: str) -> None:
    """Whatever makes it look back, the rule has the health `err` with file, line and range; its group goes on."""
    rules = load_rule_text(tmp_path, f"{{alert: Long, expr: '{expr}'}}\n{{record: short, expr: hot}}", head)
    host = Host(rules)
    for _ in range(3):
        host.tick(60.0)
    long_rule, short_rule = host.rules.health
    (sentence,) = iter_excesses(rules, HOUR)

    assert (long_rule.health, long_rule.error) == ("err", sentence)
    assert sentence.startswith(f'{tmp_path}/r.yml:{4 + head.count(chr(10))}: group "g", "Long": looks back {reach}, ')
    assert f"set sample.keep to {reach} or more" in sentence
    assert (short_rule.health, short_rule.error) == ("ok", "")


def test_the_whole_of_what_is_kept_may_be_used(tmp_path: Path) -> None:
    """A range as long as the samples are kept is evaluated."""
    host = Host(load_rule_text(tmp_path, "{record: longest, expr: 'max_over_time(hot[1h])'}"))
    host.tick(60.0, ms=SECOND)

    assert (host.health.health, host.health.series) == ("ok", 1)
