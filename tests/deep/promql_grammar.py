"""
Random expressions from the grammar of PromQL's core, for the metrics of promql_worlds.

Real programs add in different orders, so an expression must not make more of a last bit than it is. Three sorts keep
that apart: *exact* values have the same bits everywhere (samples, and what IEEE defines to the bit), *whole* ones are
exact and small integers or quarters, whose sums are exact too, and *rough* ones may differ in their last bits: they are
never compared with each other, subtracted, or put where a small difference grows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

WHOLE = ("n", "z", "c_total", "info")
EXACT = (*WHOLE, "p", "limit", "odd", "h_bucket")
POSITIVE = ("p", "n", "limit", "c_total")
MATCHERS = (
    *[""] * 8,
    '{node="0"}',
    '{node!="0"}',
    '{slot=~"a|b"}',
    '{slot!~"[bc]"}',
    '{node=~".+",slot!=""}',
    '{nothing=""}',
    '{slot="none"}',
)
# Windows of Prometheus 2 are closed to the left. Samples are never taken at a whole second, steps of subqueries are at
# multiples of 5 s, and what is asked is asked 3 s past one: so nothing lies on an edge.
MOVES = (*[""] * 10, "offset 1m", "offset 3m", "offset -30s", "@ 1700000603", "@ 1700000903 offset 1m")
ENDS = ("@ start()", "@ end()")
RANGES = ("15s", "30s", "1m", "2m", "5m")
# Within another subquery they are asked at multiples of 5 s, so each has an offset that is none.
SUBQUERIES = (
    "[1m:15s] offset 1s",
    "[3m:20s] offset 7s",
    "[5m:15s] offset -4s",
    "[5m:1m] offset 1s",
    "[2m:30s] offset 61s",
)
NUMBERS = ("0", "1", "2", "3", "10", "0.5", "-1", "-3.5", "1e3", "37.25", "Inf", "-Inf", "NaN", "0x1F")
FINITE = ("1", "2", "3", "0.5", "10", "-3.5", "37.25", "0.001")
ODD_NUMBERS = ("37.4173", "0.000731", "1.93e4", "4.6192", "-0.4173")
BY = ("", "by (node)", "by (slot)", "by (node, slot)", "without (slot)", "without (node, cpu)", "by (nothing)")
MATCHING = ("", "", "on (node)", "ignoring (slot)", "on (node, slot)", "ignoring (model, cpu)", "on ()")
GROUPING = ("", "", "group_left ()", "group_right ()", "group_left (model)")  # bare, the next "(" would be its own
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
CALENDAR = ("minute", "hour", "day_of_month", "day_of_week", "day_of_year", "days_in_month", "month", "year")
TRIGONOMETRY = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh")

# What breaks an expression: its tokens are lost, doubled, exchanged, or one of these takes their place.
TOKEN = re.compile(r'"[^"]*"|[a-zA-Z_:][\w:]*|\d[\w.]*|[=!<>]=|=~|!~|\S|\s+')
INTRUDERS = (
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    ",",
    "by",
    "on",
    "x",
    "5",
    '"s"',
    "+",
    "and",
    "bool",
    "offset",
    "@",
    "=",
    "\n",
    "sum",
    "group_left",
    "rate",
)


def choose(draw: Draw, choices: tuple[str, ...]) -> str:
    return draw(st.sampled_from(choices))


def draw_selector(draw: Draw, names: tuple[str, ...]) -> str:
    return f"{choose(draw, names)}{choose(draw, MATCHERS)} {choose(draw, MOVES)}".rstrip()


def draw_windowed(draw: Draw, names: tuple[str, ...]) -> str:
    """A range of one of these metrics, or a subquery of it."""
    if choose(draw, ("range", "range", "subquery")) == "subquery":
        return f"{choose(draw, names)}{choose(draw, MATCHERS)}{choose(draw, SUBQUERIES)}"
    ends = choose(draw, (*MOVES, *ENDS))
    return f"{choose(draw, names)}{choose(draw, MATCHERS)}[{choose(draw, RANGES)}] {ends}".rstrip()


def draw_number(draw: Draw) -> str:
    scalars = ('scalar(limit{node="0"})', "scalar(n)", "time()", "pi()", "(2 + 3 * 2 ^ 2 % 5)", "(1 > bool 2)", "-(3)")
    return choose(draw, (*NUMBERS, *NUMBERS, *scalars))


def draw_matching(draw: Draw) -> str:
    on = choose(draw, MATCHING)
    return f"{on} {choose(draw, GROUPING)}" if on else ""


@st.composite
def draw_whole(draw: Draw, depth: int) -> str:
    """Small integers and quarters."""
    if not depth:
        return draw_selector(draw, WHOLE)
    below = draw(draw_whole(depth - 1))
    shape = choose(
        draw, ("leaf", "sum", "count", "window", "sums", "arithmetic", "scalar", "compare", "sets", "values")
    )
    if shape == "sum":
        return f"{choose(draw, ('sum', 'min', 'max'))} {choose(draw, BY)} ({below})"
    if shape == "count":
        return f"{choose(draw, ('count', 'group'))} {choose(draw, BY)} ({draw(draw_exact(depth - 1))})"
    if shape == "window":
        function = choose(draw, ("changes", "resets", "count_over_time", "present_over_time"))
        return f"{function}({draw_windowed(draw, EXACT)})"
    if shape == "sums":
        function = choose(draw, ("sum_over_time", "min_over_time", "max_over_time", "last_over_time", "idelta"))
        inner = draw_windowed(draw, WHOLE) if draw(st.booleans()) else f"({below}){choose(draw, SUBQUERIES)}"
        return f"{function}({inner})"
    if shape == "arithmetic":
        return f"({below} {choose(draw, ('+', '-'))} {draw_matching(draw)} {draw(draw_whole(depth - 1))})"
    if shape == "scalar":
        return f"({below} {choose(draw, ('+', '-', '*'))} {choose(draw, ('1', '2', '0.5', '-3'))})"
    if shape == "compare":
        return draw_comparison(draw, below, draw(draw_whole(depth - 1)))
    if shape == "sets":
        return (
            f"({below} {choose(draw, ('and', 'or', 'unless'))} {choose(draw, MATCHING)} {draw(draw_whole(depth - 1))})"
        )
    if shape == "values":
        return f'count_values {choose(draw, BY)} ("value", {below})'
    return draw_selector(draw, WHOLE)


def draw_comparison(draw: Draw, first: str, second: str) -> str:
    bool_ = choose(draw, ("", "", "bool"))
    if choose(draw, ("vector", "scalar")) == "scalar":
        return f"({first} {choose(draw, COMPARISONS)} {bool_} {draw_number(draw)})"
    return f"({first} {choose(draw, COMPARISONS)} {bool_} {draw_matching(draw)} {second})"


@st.composite
def draw_exact(draw: Draw, depth: int) -> str:
    """Values that are the same to the bit."""
    if not depth:
        return draw_selector(draw, EXACT)
    shape = choose(draw, tuple(EXACT_SHAPES))
    return EXACT_SHAPES[shape](draw, depth - 1)


def _elementwise(draw: Draw, depth: int) -> str:
    below = draw(draw_exact(depth))
    templates = ("abs(%s)", "ceil(%s)", "floor(%s)", "sqrt(%s)", "sgn(%s)", "-(%s)", "round(%s)")
    limits = tuple(f"{name}(%s, {draw_number(draw)})" for name in ("clamp_min", "clamp_max", "round"))
    clamp = f"clamp(%s, {draw_number(draw)}, {draw_number(draw)})"
    return choose(draw, (*templates, *limits, clamp, "deg(%s)", "rad(%s)")).replace("%s", below)


def _arithmetic(draw: Draw, depth: int) -> str:
    op, below = choose(draw, ("+", "-", "*", "/", "%")), draw(draw_exact(depth))
    right = draw_number(draw) if draw(st.booleans()) else f"{draw_matching(draw)} {draw(draw_exact(depth))}"
    return f"({below} {op} {right})"


def _scalar_first(draw: Draw, depth: int) -> str:
    return f"({draw_number(draw)} {choose(draw, ('+', '-', '*', '/', '%', '< ', '>= bool'))} {draw(draw_exact(depth))})"


def _set(draw: Draw, depth: int) -> str:
    first, operator = draw(draw_exact(depth)), choose(draw, ("and", "or", "unless"))
    return f"({first} {operator} {choose(draw, MATCHING)} {draw(draw_exact(depth))})"


def _draw_choice(draw: Draw, depth: int) -> str:
    ranked = f"{choose(draw, ('topk', 'bottomk'))} {choose(draw, BY)} ({choose(draw, ('0', '1', '2', '100', '-1'))}, "
    return choose(
        draw,
        (f"{ranked}{draw_selector(draw, ('p',))})", f"min {choose(draw, BY)} (%s)", f"max {choose(draw, BY)} (%s)"),
    ).replace("%s", draw(draw_exact(depth)))


def _over_time(draw: Draw, depth: int) -> str:
    function = choose(
        draw, ("min_over_time", "max_over_time", "last_over_time", "idelta", "changes", "absent_over_time")
    )
    below = (
        draw_windowed(draw, EXACT) if draw(st.booleans()) else f"({draw(draw_exact(depth))}){choose(draw, SUBQUERIES)}"
    )
    return f"{function}({below})"


def _draw_relabelling(draw: Draw, depth: int) -> str:
    below = draw(draw_exact(depth))
    replace = choose(
        draw,
        (
            '"slot", "x$1", "node", "(.*)"',
            '"new", "$1-${2}", "slot", "(.)(.*)"',
            '"node", "", "slot", "a"',
            '"node", "same", "node", ".*"',
            '"new", "x", "absent", ""',
            '"new", "$$$3", "slot", "a|(b)"',
        ),
    )
    join = choose(draw, ('"new", "-", "node", "slot"', '"slot", "", "slot", "none"', '"node", ","'))
    ordered = f"{choose(draw, ('sort', 'sort_desc'))}({below})"
    return choose(draw, (f"label_replace({below}, {replace})", f"label_join({below}, {join})", ordered))


def _without_series(draw: Draw, depth: int) -> str:
    below = draw(draw_exact(depth))
    return choose(
        draw, (f"absent({below})", f"vector({draw_number(draw)})", f"vector(scalar({below}))", f"timestamp({below})")
    )


def _calendar(draw: Draw, depth: int) -> str:
    return f"{choose(draw, CALENDAR)}({choose(draw, ('', 't', 't', 't offset 1m', 'timestamp(p)', 'odd'))})"


EXACT_SHAPES: dict[str, Callable[[Draw, int], str]] = {
    "leaf": lambda draw, _: draw_selector(draw, EXACT),
    "every name": lambda draw, _: choose(draw, ('{__name__=~"n|z"}', '{__name__=~"li.*|info",node="1"}')),
    "elementwise": _elementwise,
    "arithmetic": _arithmetic,
    "scalar first": _scalar_first,
    "compare": lambda draw, depth: draw_comparison(draw, draw(draw_exact(depth)), draw(draw_exact(depth))),
    "set": _set,
    "chosen": _draw_choice,
    "over time": _over_time,
    "relabelled": _draw_relabelling,
    "without series": _without_series,
    "calendar": _calendar,
    "whole": lambda draw, depth: draw(draw_whole(depth)),
}


@st.composite
def draw_positive(draw: Draw, depth: int, ragged: bool) -> str:
    """Rough values of which none is negative."""
    shape = choose(
        draw, ("rate", "rate", "mean", "quantile", "histogram", "aggregate", "aggregate", "product", "subquery")
    )
    if shape == "rate":
        # Before a first sample far from the start of its window the versions stretch a small counter differently.
        names = ("c_total",) if ragged else ("c_total", "c_total", "n", "p", "h_bucket")
        inner = windowed_range(draw, names)
        if not ragged and draw(st.booleans()):
            inner = f"(sum {choose(draw, BY)} ({choose(draw, names)})){choose(draw, SUBQUERIES)}"
        return f"{choose(draw, ('rate', 'increase', 'irate', 'resets'))}({inner})"
    if shape == "mean":
        function = choose(draw, ("avg_over_time", "sum_over_time", "stddev_over_time", "stdvar_over_time"))
        return f"{function}({draw_windowed(draw, ('p', 'n', 'limit') if 'std' in function else POSITIVE)})"
    if shape == "quantile":
        return choose(
            draw, ("quantile_over_time(%s, {0})", "quantile_over_time(%s, {0})", "quantile {1} (%s, {2})")
        ).format(draw_windowed(draw, POSITIVE), choose(draw, BY), draw_selector(draw, POSITIVE)) % choose(
            draw, ("0", "0.25", "0.5", "0.9371", "1", "2", "-1", "NaN")
        )
    if shape == "histogram":
        return draw_histogram(draw, ragged)
    below = draw(draw_positive(depth - 1, ragged)) if depth else draw_selector(draw, POSITIVE)
    if shape == "aggregate":
        return f"{choose(draw, ('sum', 'avg', 'min', 'max'))} {choose(draw, BY)} ({below})"
    if shape == "product":
        op = choose(draw, ("*", "/", "+"))
        right = choose(draw, ("2", "0.5", "37.25", "on (node) group_left limit", "ignoring (slot) group_left p"))
        return f"({below} {op} {right})"
    function = choose(draw, ("max_over_time", "min_over_time", "avg_over_time", "sum_over_time", "last_over_time"))
    return f"{function}(({below}){choose(draw, SUBQUERIES)})"


def windowed_range(draw: Draw, names: tuple[str, ...]) -> str:
    selector = f"{choose(draw, names)}{choose(draw, MATCHERS)}"
    return f"{selector}[{choose(draw, RANGES)}] {choose(draw, (*MOVES, *ENDS))}".rstrip()


def draw_histogram(draw: Draw, ragged: bool) -> str:
    buckets = ["h_bucket", 'h_bucket{le!="0.5"}', "sum by (le) (h_bucket)", "h_bucket offset 1m", "h_bucket", "p"]
    if not ragged:
        buckets += [f"rate(h_bucket[{choose(draw, RANGES)}])", "sum by (le, node) (rate(h_bucket[1m]))"]
    rank = choose(draw, ("0", "0.1371", "0.4991", "0.9137", "1", "-0.5", "1.5", "NaN"))
    return f"histogram_quantile({rank}, {choose(draw, tuple(buckets))})"


@st.composite
def draw_rough(draw: Draw, depth: int, ragged: bool) -> str:
    """Values that may differ in their last bits, and what may safely be made of them."""
    shape = choose(
        draw,
        ("positive", "positive", "positive", "trend", "deviation", "curve", "curve", "power", "scaled", "threshold"),
    )
    if shape == "trend":
        inner = windowed_range(draw, ("p", "n", "limit", "c_total"))
        moving = inner.split("@")[0].rstrip()
        ahead = tuple(f"predict_linear({moving}, {seconds})" for seconds in ("600", "-60.5", "scalar(limit)"))
        return choose(draw, (f"deriv({inner})", f"delta({inner})", *ahead))
    if shape == "deviation":
        return f"{choose(draw, ('stddev', 'stdvar'))} {choose(draw, BY)} ({draw_selector(draw, ('p', 'n', 'limit'))})"
    if shape == "curve":
        function = choose(draw, ("exp", "ln", "log2", "log10", *TRIGONOMETRY))
        return f"{function}({draw_selector(draw, ('p', 'z', 'odd', 'limit'))} {choose(draw, ('', '/ 100', '/ 7'))})"
    if shape == "power":
        op = choose(draw, ("^", "atan2"))
        base = draw_selector(draw, ("p", "limit", "n", "odd"))
        function = "abs" if op == "atan2" else ""  # Prometheus 2 does not drop the name for atan2
        return f"{function}({base} {op} {choose(draw, (*FINITE, 'on (node) group_left z'))})"
    if shape == "scaled":
        return f"{choose(draw, ('abs', '-'))}({draw(draw_positive(depth, ragged))} * {choose(draw, FINITE)})"
    if shape == "threshold":
        bool_ = choose(draw, ("", "bool"))
        return f"({draw(draw_positive(depth, ragged))} {choose(draw, ('>', '<'))} {bool_} {choose(draw, ODD_NUMBERS)})"
    return draw(draw_positive(depth, ragged))


def expressions(ragged: bool) -> st.SearchStrategy[str]:
    """Expressions of every sort; `ragged` where samples come at uneven times, or not at all."""
    sorts = [
        draw_exact(1),
        draw_exact(2),
        draw_exact(3),
        draw_exact(3),
        draw_whole(2),
        draw_whole(3),
        draw_rough(1, ragged),
        draw_rough(2, ragged),
        draw_rough(3, ragged),
    ]
    return st.one_of(sorts)
