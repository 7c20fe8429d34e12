"""
Parses PromQL text to a plan.

The grammar and its types are promql-parser's. Expressions that would crash it, or that it accepts although Prometheus
does not, are refused here. https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import promql_parser

from rules.matchers import NAME, Matcher, compile_pattern
from rules.promql.aggregate import AGGREGATIONS
from rules.promql.binary import OPERATORS
from rules.promql.faults import Trial, describe_fault, format_fault
from rules.promql.functions import FUNCTIONS
from rules.promql.parser_limits import check_parser_limits
from rules.promql.plan import (
    Aggregate,
    Binary,
    Call,
    Matching,
    MatrixSelector,
    Negate,
    Node,
    Number,
    PromqlError,
    Subquery,
    Text,
    TimeModifiers,
    VectorSelector,
    infer_kind,
)
from rules.promql.tokens import TEXT, quote

DEFAULT_STEP_MS = 60_000  # of a subquery without a step, where nothing depends on it
MAX_BYTES = 64 << 10
MAX_DEPTH = 200  # promql-parser overflows the stack of the whole process at about 4,000 levels
MAX_ESCAPES = 2_000  # and at about 20,000 escapes in a string, or comments

# Possessive, and also closed by the end of the text, so that no text makes the search backtrack.
_TEXT_OR_COMMENT = (
    r"""(?P<text>"(?:\\.|[^"\\])*+(?:"|\\?\Z)|'(?:\\.|[^'\\])*+(?:'|\\?\Z)|`[^`]*+(?:`|\Z))|(?P<comment>\#[^\n]*)"""
)
_TOKEN = re.compile(
    _TEXT_OR_COMMENT
    + r"|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<comma>,)"
    + r"|(?P<operator>[-+*/%^]|[=!<>]=?|=~|!~|\b(?:and|or|unless|atan2)\b)",
    re.DOTALL | re.IGNORECASE,
)
_NORMALIZABLE = re.compile(
    rf"(?P<match>[=!]~(?:\s|\#[^\n]*)*+(?P<pattern>{TEXT}))|"
    + _TEXT_OR_COMMENT
    + r"|(?P<name>[a-zA-Z_:][\w:]*)|(?P<number>\d[\d_]*+)",
    re.DOTALL,
)
# Words that promql-parser reserves, although Prometheus takes them for names too, wherever no range is before them.
_RANGE_MODIFIERS = ("anchored", "smoothed")
_AS_NAME = "__as_a_name"
_NUMBERED_PATTERN = re.compile(r'([=!]~)"(\d+)\|?"')
_LONG_NUMBER = re.compile(r"\d++(?:_\d++)++")
_NEGATIVE_AT = re.compile(r"@\s*-")
_NATIVE_HISTOGRAM_FUNCTIONS = (
    "histogram_avg",
    "histogram_count",
    "histogram_stddev",
    "histogram_stdvar",
    "histogram_sum",
)
_CARDS = {
    "OneToOne": "one-to-one",
    "ManyToOne": "many-to-one",
    "OneToMany": "one-to-many",
    "ManyToMany": "many-to-many",
}
_MATCH_OPS = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = timedelta(microseconds=(2**63 - 1) // 1000)  # of a duration: Prometheus counts nanoseconds in 64 bits
_LARGE_NUMBER = re.compile(r"(?<![\w.])(?:\d[\d_]*+\.?+\d*+|\.\d++)(?:[eE]\+?+\d++)?+")


def parse(text: str, subquery_step_ms: int) -> Node:
    """Parses an expression to its plan; raises PromqlError, with the place of the fault, if it is not supported."""
    _check_limits(text)

    def attempt(part: str) -> Trial:
        try:
            return Trial("", infer_kind(_parse_unlocated(part, subquery_step_ms)))
        except PromqlError as error:
            return Trial(str(error), "")

    try:
        return _parse_unlocated(text, subquery_step_ms)
    except PromqlError as error:
        raise PromqlError(describe_fault(text, str(error), attempt)) from error


def _parse_unlocated(text: str, subquery_step_ms: int) -> Node:
    try:
        tree, patterns = _parse_tree(text)
    except (ValueError, OverflowError) as error:
        raise PromqlError(str(error)) from error
    return _Planner(subquery_step_ms, patterns).plan(tree)


def _parse_tree(text: str) -> tuple[Any, list[str]]:
    """Returns promql-parser's tree, and the regular expressions to which its numbered patterns belong."""
    patterns: list[str] = []
    tree = promql_parser.parse(_NORMALIZABLE.sub(lambda token: _normalize_token(token, patterns), text))
    return tree, patterns


def format_expression(text: str) -> str:
    """Formats an expression over lines, with its parts in their order; raises PromqlError."""
    parse(text, DEFAULT_STEP_MS)
    tree, patterns = _parse_tree(text)
    # Inside another string the quotes would be escaped, so only matchers are replaced.
    formatted = _NUMBERED_PATTERN.sub(lambda match: match[1] + quote(patterns[int(match[2])]), tree.prettify())
    return _restore_name(formatted)


def _check_limits(text: str) -> None:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise PromqlError(format_fault(text, 0, f"the expression is longer than {MAX_BYTES >> 10} KiB"))
    if _measure_depth(text) > MAX_DEPTH:
        reason = f"the expression nests deeper than {MAX_DEPTH} levels; split it into rules"
        raise PromqlError(format_fault(text, 0, reason))
    if max((token[0].count("\\") for token in _TOKEN.finditer(text) if token["text"]), default=0) > MAX_ESCAPES:
        raise PromqlError(format_fault(text, 0, f"a string has more than {MAX_ESCAPES:,} escapes"))
    code = _TOKEN.sub(_blank_text, text)
    if negative := _NEGATIVE_AT.search(code):
        raise PromqlError(format_fault(text, negative.start(), "a negative time after @ is not supported"))
    if number := _find_infinite_number(code):
        reason = f"error parsing number: strconv.ParseFloat: parsing {quote(number[0])}: value out of range"
        raise PromqlError(format_fault(text, number.start(), reason))
    try:
        check_parser_limits(text, _measure_depth(text))
    except PromqlError as error:
        raise PromqlError(format_fault(text, 0, str(error))) from error


def _find_infinite_number(code: str) -> re.Match[str] | None:
    """Finds a number beyond the largest float, which promql-parser takes for infinity and Prometheus refuses."""
    numbers = (number for number in _LARGE_NUMBER.finditer(code) if len(number[0]) > 3)
    return next((number for number in numbers if float(number[0].replace("_", "")) == math.inf), None)


def _normalize_token(token: re.Match[str], patterns: list[str]) -> str:
    """
    Rewrites a token for promql-parser, which does not know 1_000 and fails at many comments.

    It would also compile regular expressions as Rust does, which has no \\Q…\\E, no octal escapes and no (?). So they
    are numbered, and RE2 compiles them, as in Prometheus. The number is in a pattern that promql-parser never takes for
    one that matches everything: only the Planner can decide that.
    """
    if token["match"]:
        patterns.append(cast("Any", promql_parser.parse(_quote_raw_text(token["pattern"]))).val)
        return f'{token[0][:2]}"{len(patterns) - 1}{"|" if token[0][0] == "!" else ""}"'
    if token["text"]:
        return _quote_raw_text(token[0])
    if (token["name"] or "").lower() in _RANGE_MODIFIERS and not token.string[: token.start()].rstrip().endswith("]"):
        return token[0] + _AS_NAME
    if token["number"] and _LONG_NUMBER.fullmatch(token[0]):
        return token[0].replace("_", "")
    return " " if token["comment"] else token[0]


def _restore_name(text: str) -> str:
    return text.replace(_AS_NAME, "")


def _quote_raw_text(text: str) -> str:
    """Writes a raw string with double quotes: promql-parser takes its backslashes, as of `\\d`, for bad escapes."""
    return quote(text[1:-1]) if len(text) > 1 and text[0] == text[-1] == "`" else text


def _blank_text(token: re.Match[str]) -> str:
    return " " * len(token[0]) if token["text"] or token["comment"] else token[0]


def _measure_depth(text: str) -> int:
    """Returns an upper bound of the height of the syntax tree: open brackets plus the operators of a chain."""
    frames = [[0, 0]]  # [operators since the last comma, deepest level below]
    deepest = 0
    for token in _TOKEN.finditer(text):
        if token["open"]:
            frames.append([0, 0])
        elif token["close"] and len(frames) > 1:
            operators, below = frames.pop()
            frames[-1][1] = max(frames[-1][1], 1 + operators + below)
        elif token["comma"]:
            deepest = max(deepest, sum(frames[-1]) + len(frames))
            frames[-1][0] = 0
        elif token["operator"]:
            frames[-1][0] += 1
    return max(deepest, sum(sum(frame) + 1 for frame in frames))


class _Planner:
    """Converts the parser's tree to a plan; `patterns` has the regular expressions by their number."""

    def __init__(self, subquery_step_ms: int, patterns: list[str]) -> None:
        self._subquery_step_ms = subquery_step_ms
        self._patterns = patterns

    def plan(self, tree: Any) -> Node:
        kind = type(tree).__name__
        if kind not in _BUILDERS:
            raise PromqlError(f"{kind} is not supported")
        return _BUILDERS[kind](self, tree)

    def _plan_number(self, tree: Any) -> Node:
        return Number(tree.val)

    def _plan_string(self, tree: Any) -> Node:
        return Text(tree.val)

    def _plan_parentheses(self, tree: Any) -> Node:
        return self.plan(tree.expr)

    def _plan_unary(self, tree: Any) -> Node:
        return Negate(self.plan(tree.expr))

    def _plan_vector_selector(self, tree: Any) -> VectorSelector:
        return VectorSelector(_convert_matchers(tree, self._patterns), _convert_time_modifiers(tree))

    def _plan_matrix_selector(self, tree: Any) -> Node:
        return MatrixSelector(self._plan_vector_selector(tree.vector_selector), _read_duration(tree, "range") or 0)

    def _plan_subquery(self, tree: Any) -> Node:
        step = _read_duration(tree, "step")
        step = self._subquery_step_ms if step is None else step
        if step <= 0:
            raise PromqlError("parse error: the step of a subquery must be greater than zero")
        return Subquery(self.plan(tree.expr), _read_duration(tree, "range") or 0, step, _convert_time_modifiers(tree))

    def _plan_call(self, tree: Any) -> Node:
        name = tree.func.name
        if name not in FUNCTIONS:
            raise PromqlError(_describe_unsupported("function", name, name in _NATIVE_HISTOGRAM_FUNCTIONS))
        return Call(name, tuple(self.plan(argument) for argument in tree.args))

    def _plan_aggregate(self, tree: Any) -> Node:
        op = str(tree.op)
        if op not in AGGREGATIONS:
            raise PromqlError(_describe_unsupported("aggregation", op, native=False))
        modifier = tree.modifier
        without = modifier is not None and str(modifier.type).endswith("Without")
        labels = () if modifier is None else tuple(sorted(set(map(_restore_name, modifier.labels))))
        parameter = None if tree.param is None else self.plan(tree.param)
        return Aggregate(op, self.plan(tree.expr), parameter, labels, without)

    def _plan_binary(self, tree: Any) -> Node:
        op = str(tree.op)
        if op not in OPERATORS:
            raise PromqlError(f"operator {op} is not supported")
        lhs, rhs = self.plan(tree.lhs), self.plan(tree.rhs)
        modifier = tree.modifier
        return Binary(op, lhs, rhs, modifier is not None and modifier.return_bool, _convert_matching(op, modifier))


def _describe_unsupported(category: str, name: str, native: bool) -> str:
    if native:
        return (
            f"{category} {name}() is for native histograms, which are not supported; "
            "of a classic one use the series ending in _bucket, _sum and _count"
        )
    return f"{category} {name}() is experimental in Prometheus and not supported"


_BUILDERS: dict[str, Callable[[_Planner, Any], Node]] = {
    "AggregateExpr": _Planner._plan_aggregate,
    "BinaryExpr": _Planner._plan_binary,
    "Call": _Planner._plan_call,
    "MatrixSelector": _Planner._plan_matrix_selector,
    "NumberLiteral": _Planner._plan_number,
    "ParenExpr": _Planner._plan_parentheses,
    "StringLiteral": _Planner._plan_string,
    "SubqueryExpr": _Planner._plan_subquery,
    "UnaryExpr": _Planner._plan_unary,
    "VectorSelector": _Planner._plan_vector_selector,
}


def _convert_matching(op: str, modifier: Any) -> Matching:
    card = "many-to-many" if op in ("and", "or", "unless") else "one-to-one"
    if modifier is None:
        return Matching(cast("Any", card))
    fill = modifier.fill_values
    if fill is not None and (fill.lhs is not None or fill.rhs is not None):
        raise PromqlError("the fill modifiers of a binary operator are not supported")
    card = _CARDS[str(modifier.card).rsplit(".", 1)[-1]] if card != "many-to-many" else card
    matching = modifier.matching
    on = matching is not None and str(matching.type).endswith("Include")
    labels = () if matching is None else tuple(sorted(set(map(_restore_name, matching.labels))))
    return Matching(cast("Any", card), on, labels, tuple(map(_restore_name, modifier.group_labels or ())))


def _convert_matchers(tree: Any, patterns: list[str]) -> tuple[Matcher, ...]:
    if tree.matchers.or_matchers:
        raise PromqlError('parse error: "or" between label matchers is not PromQL')
    matchers = [] if tree.name is None else [Matcher(NAME, "=", _restore_name(tree.name))]
    for condition in tree.matchers.matchers:
        op = _MATCH_OPS[str(condition.op).rsplit(".", 1)[-1]]
        value = condition.value
        if op in ("=~", "!~"):
            value = patterns[int(value.rstrip("|"))]
            _check_pattern(value)
        matchers.append(Matcher(_restore_name(condition.name), cast("Any", op), value))
    if sum(matcher.label == NAME and matcher.op == "=" for matcher in matchers) > 1:
        raise PromqlError("parse error: metric name must not be set twice")
    if all(matcher.test("") for matcher in matchers):
        raise PromqlError("parse error: vector selector must contain at least one non-empty matcher")
    return tuple(matchers)


def _check_pattern(text: str) -> None:
    try:
        compile_pattern(text)
    except ValueError as error:
        raise PromqlError(f"parse error: {error}") from error


def _convert_time_modifiers(tree: Any) -> TimeModifiers:
    return TimeModifiers(_read_duration(tree, "offset") or 0, None if tree.at is None else _convert_at(tree.at))


def _convert_at(modifier: Any) -> Any:
    anchor = str(modifier.type).rsplit(".", 1)[-1].lower()
    if anchor in ("start", "end"):
        return anchor
    try:
        return _to_milliseconds(modifier.at.astimezone(UTC) - _EPOCH)
    except (OverflowError, ValueError) as error:
        raise PromqlError("parse error: the time after @ is out of range") from error


def _read_duration(tree: Any, name: str) -> int | None:
    """Returns a duration of the tree in milliseconds; reading one that Python cannot hold fails in the parser."""
    try:
        delta = getattr(tree, name)
    except (OverflowError, ValueError) as error:
        raise PromqlError("parse error: duration out of range") from error
    if delta is not None and abs(delta) > _LONGEST:
        raise PromqlError("parse error: duration out of range")
    return None if delta is None else _to_milliseconds(delta)


def _to_milliseconds(delta: timedelta) -> int:
    return delta // timedelta(milliseconds=1)
