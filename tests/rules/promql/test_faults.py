"""A refused expression has the line, the column and the reason of its fault, as promtool reports them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules import promql
from rules.promql import PromqlError
from rules.promql.faults import MAX_TRIED, Trial, describe_fault
from rules.promql.syntax import Part, read_syntax
from tests.deep import promql_grammar


def find_fault(text: str) -> str:
    """Returns the sentence of a refusal, or nothing."""
    try:
        promql.compile(text)
    except PromqlError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("sum by (job) (x)\n  /\n", "3:1: parse error: unexpected end of input"),
        ("sum some_metric by (test)", '1:5: parse error: unexpected identifier "some_metric"'),
        ("a - on(b) ignoring(c) d", "1:11: parse error: unexpected <ignoring>"),
        ("sum without (a) (x) by (a)", "1:21: parse error: unexpected <by>"),
        ("sum(rate(x[5m]) by (a)", "1:17: parse error: unexpected <by> in aggregation"),
        ("sum(", "1:5: parse error: unclosed left parenthesis"),
        ("sum(x))", "1:8: parse error: unexpected right parenthesis ')'"),
        ('x{a="b" c="d"}', '1:9: parse error: unexpected identifier "c" in label matching, expected "," or "}"'),
        ('x{a="b}', "1:5: parse error: unterminated quoted string"),
        ("x{a=b}", '1:5: parse error: unexpected identifier "b" in label matching, expected string'),
        ("x[5m", "1:5: parse error: unclosed left bracket"),
        ("x offset", "1:9: parse error: unexpected end of input in offset, expected duration"),
        ("sum by (5) (x)", '1:9: parse error: unexpected number "5" in grouping opts, expected label'),
        ("rate(x,)", "1:7: parse error: trailing commas not allowed in function call args"),
        (
            "a +\n  rate(x)",
            '2:8: parse error: expected type range vector in call to function "rate", got instant vector',
        ),
        ("a + (b > bool foo(x))", '1:15: parse error: unknown function with name "foo"'),
        ("round(x, y)", '1:10: parse error: expected type scalar in call to function "round", got instant vector'),
        ('topk("a", x)', "1:6: parse error: expected type scalar in aggregation parameter, got string"),
        ("a + sum(5)", "1:9: parse error: expected type instant vector in aggregation expression, got scalar"),
        ("a + (x[5m])", "1:5: parse error: binary expression must contain only scalar and instant vector types"),
        ("a + (1 > 2)", "1:8: parse error: comparisons between scalars must use BOOL modifier"),
        ("1 + (x)[5m]", "1:8: parse error: ranges only allowed for vector selectors"),
        ('1 + x{a="b",c=~"("}', '1:13: parse error: error parsing regexp "(": missing ): ('),
        ('1 + {a=~".*"}', "1:5: parse error: vector selector must contain at least one non-empty matcher"),
        ("max_over_time(x[5m:0s])", "1:20: parse error: duration must be greater than 0"),
        ("# none", "1:1: parse error: no expression found in input"),
        ("x # of y\n$", "2:1: parse error: unexpected character: '$'"),
        ("1 + limitk(1, x)", "1:5: parse error: aggregation limitk() is experimental in Prometheus and not supported"),
        ("1 + x @ -5", "1:7: parse error: a negative time after @ is not supported"),
        ('1 + x{a="b",c="\\q"}', "1:15: parse error: unknown escape sequence U+0071 'q'"),
        (r"1 + '\"'", "1:5: parse error: unknown escape sequence U+0022 '\"'"),
        (
            r'sum(label_replace(x, "\x4", "", "", ""))',
            "1:22: parse error: illegal character U+0022 '\"' in escape sequence",
        ),
        (r'x{a="\400"}', "1:5: parse error: escape sequence is an invalid Unicode code point"),
        (r'x{a="\ud800"}', "1:5: parse error: escape sequence is an invalid Unicode code point"),
        ("a +\nrate(x[1d1w])", '2:8: parse error: not a valid duration string: "1d1w"'),
        ("1 + x offset 5m5m", '1:14: parse error: not a valid duration string: "5m5m"'),
        ("x[5m:1d1w]", '1:6: parse error: not a valid duration string: "1d1w"'),
        ("1 + x offset 1000000000w", "1:14: parse error: duration out of range"),
        ("1 + x[9999999999y]", "1:7: parse error: duration out of range"),
        ("x[1h:300y]", "1:6: parse error: duration out of range"),
        ("x offset -300y", "1:11: parse error: duration out of range"),
        ("1 + 0x", '1:5: parse error: error parsing number: strconv.ParseFloat: parsing "0x": invalid syntax'),
        (
            "1 + 1e400",
            '1:5: parse error: error parsing number: strconv.ParseFloat: parsing "1e400": value out of range',
        ),
        ("1 + 1__0", '1:5: parse error: bad number or duration syntax: "1_"'),
        ("a + sum()", "1:5: parse error: no arguments for aggregate expression provided"),
        ("sum(x}", "1:6: parse error: unexpected character: '}'"),
        ("x{{", "1:3: parse error: unexpected left brace '{'"),
        ("é", "1:1: parse error: unexpected character: 'é'"),
        ("  \n ", "1:1: parse error: no expression found in input"),
    ],
)
def test_a_fault_has_its_place(text: str, fault: str) -> None:
    """The place is where Prometheus' parser finds it: the first token that cannot follow, or the innermost bad part."""
    assert find_fault(text) == fault


@pytest.mark.parametrize(
    "text",
    [
        "label_join(" + ",".join(["abs(x)"] * 1500) + ")",
        "foo(" + ",".join(["x"] * 8000) + ")",
        "x{" + ",".join(['a=~"b"'] * 1500) + ',a=~"("}',
        "abs(" * 60 + ",".join(["x"] * 7000) + ")" * 60,
        "foo(" + ",".join(["x"] * 30_000) + ")",
        'x{a="b"' * 8000,
    ],
)
def test_a_search_for_a_place_is_bounded(text: str) -> None:
    """However many parts could have the fault, only so many characters are tried again."""
    tried: list[int] = []

    def attempt(part: str) -> Trial:
        tried.append(len(part))
        return Trial("some reason", "")

    assert re.match(r"\d+:\d+: parse error: ", describe_fault(text, "some reason", attempt))
    assert sum(tried) <= MAX_TRIED + 2 * len(text)
    assert re.match(r"\d+:\d+: parse error: ", find_fault(text))


def iter_parts(part: Part) -> list[Part]:
    return [part, *(inner for each in part.parts for inner in iter_parts(each))]


@given(promql_grammar.expressions(ragged=True))
def test_a_valid_expression_has_no_fault(text: str) -> None:
    """The syntax that locates faults takes every expression that the parser takes, and so each part of it alone."""
    tree = read_syntax(text, lambda name: True)
    parts = [text[part.start : part.end] for part in iter_parts(tree) if not part.is_matcher]

    assert text.startswith(parts[0]) or parts[0] in text
    assert [find_fault(part) for part in parts] == [""] * len(parts)


@given(promql_grammar.expressions(ragged=True), st.data())
def test_every_refusal_has_a_place_in_the_text(text: str, data: st.DataObject) -> None:
    """Whatever is lost from an expression or gets into it, the refusal names a line and a column that exist."""
    tokens = promql_grammar.TOKEN.findall(text)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(tokens) - 1))
        tokens[position : position + data.draw(st.integers(0, 1))] = [
            data.draw(st.sampled_from(("", *promql_grammar.INTRUDERS)))
        ]
    broken = "".join(tokens)
    fault = find_fault(broken)
    match = re.match(r"(\d+):(\d+): parse error: (?!invalid promql query)", fault)

    assert not fault or match
    if match:
        lines = broken.split("\n")
        assert int(match[1]) <= len(lines)
        assert int(match[2]) <= len(lines[int(match[1]) - 1]) + 1


@pytest.mark.parametrize(
    "text", ["1e308", 'x{a="1e400"}', "x1e400", "1 # 1e400", "0x1e400", "x offset 290y", "-Inf + inf"]
)
def test_what_only_looks_too_large_is_taken(text: str) -> None:
    """Only a number beyond the largest float, and a duration beyond 292 years, are out of range."""
    assert find_fault(text) == ""
