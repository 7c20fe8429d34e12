"""The places of faults in expressions against promtool's, for broken variants of expressions."""

from __future__ import annotations

import json
import random
import re
import subprocess
from pathlib import Path

import pytest

from rules import promql
from rules.promql import PromqlError
from tests import processes
from tests.deep import promql_grammar

pytestmark = pytest.mark.deep

EXPRESSIONS = (
    'sum by (job) (rate(x{a="b",c=~"d.*"}[5m])) / on(job) group_left(z) sum(y) > bool 5',
    "topk(3, avg without (a, b) (x offset 5m @ 100))",
    "max_over_time(rate(x[5m])[1h:1m] offset -5m) and on() vector(1) or -x ^ 2 unless y",
    'label_replace(x{__name__!="z"}, "a", "$1", "b", "(.*)") * 0x1f + 1e3 % Inf',
    "histogram_quantile(0.9, sum(rate(h_bucket[1m])) by (le, job)) == 3 != y @ start()",
    'count_values("v", x) atan2 absent({a!~"b|c"}) - (1 + (2 - 3)) # note\n * x:y',
)
AGREED = 0.95


def build_broken_expressions(count: int) -> list[str]:
    """Returns expressions with a token removed, doubled, exchanged or replaced; always the same ones."""
    chance = random.Random(14)
    broken: set[str] = set()
    while len(broken) < count:
        tokens = promql_grammar.TOKEN.findall(chance.choice(EXPRESSIONS))
        position, kind = chance.randrange(len(tokens)), chance.choice(("remove", "double", "exchange", "replace"))
        if kind == "remove":
            del tokens[position]
        elif kind == "double":
            tokens.insert(position, chance.choice(tokens))
        elif kind == "exchange":
            other = chance.randrange(len(tokens))
            tokens[position], tokens[other] = tokens[other], tokens[position]
        else:
            tokens[position] = chance.choice(promql_grammar.INTRUDERS)
        broken.add("".join(tokens))
    return sorted(broken)


def read_promtool_places(folder: Path, expressions: list[str]) -> list[str]:
    """Returns the place of the fault that promtool names in each expression, or nothing."""
    rules = "".join(f"  - record: r{n}\n    expr: {json.dumps(text)}\n" for n, text in enumerate(expressions))
    (folder / "rules.yml").write_text(f"groups:\n- name: g\n  rules:\n{rules}")
    command = [processes.require_program("promtool"), "check", "rules", str(folder / "rules.yml")]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    places = dict(re.findall(r'"r(\d+)": could not parse expression: (\d+:\d+):', output.stdout + output.stderr))
    return [places.get(str(number), "") for number in range(len(expressions))]


def find_place(text: str) -> str:
    """Returns the place of our refusal, or nothing."""
    try:
        promql.compile(text)
    except PromqlError as error:
        return ":".join(str(error).split(":")[:2])
    return ""


def test_faults_have_the_places_of_promtool(tmp_path: Path) -> None:
    """
    Where both refuse, nearly all places are equal.

    The rest are expressions with two faults, of which either may be named, and those of which Prometheus 2 already
    refuses a part that Prometheus 3 takes, such as a duration as a number.
    """
    expressions = build_broken_expressions(800)
    places = [
        (theirs, find_place(text))
        for text, theirs in zip(expressions, read_promtool_places(tmp_path, expressions), strict=True)
    ]
    refused = [pair for pair in places if all(pair)]

    assert len(refused) > len(expressions) / 2
    assert sum(theirs == ours for theirs, ours in refused) >= AGREED * len(refused)
    assert sum(bool(theirs) != bool(ours) for theirs, ours in places) <= (1 - AGREED) * len(places)


WORDS = (
    "sum", "count_values", "limitk", "by", "without", "on", "ignoring", "group_left", "bool", "offset", "start", "end",
    "and", "atan2", "inf", "NaN", "smoothed", "anchored", "fill", "step", "range", "By", "job", "rate",
)  # fmt: skip
FORMS = (
    "sum(x) by (W)",
    "x + on(W) y",
    "x * on(a) group_left(W) y",
    'x{W="a"}',
    "W",
    "rate(W[5m])",
    'W{a="b"}',
    "W(x)",
    "x W y",
)


def test_words_are_names_where_they_are_for_promtool(tmp_path: Path) -> None:
    """Each word that means something somewhere is a name, or is refused, exactly where Prometheus does so."""
    expressions = [form.replace("W", word) for word in WORDS for form in FORMS]
    theirs = read_promtool_places(tmp_path, expressions)
    ours = [find_place(text) for text in expressions]

    assert [text for text, a, b in zip(expressions, theirs, ours, strict=True) if bool(a) != bool(b)] == []
