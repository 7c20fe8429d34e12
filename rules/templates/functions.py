"""
The functions Prometheus adds to Go's: https://prometheus.io/docs/prometheus/latest/configuration/template_reference/.

Each follows prometheus/template/template.go; a failure is a TemplateError with the same message.
"""

from __future__ import annotations

import ipaddress
import math
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rules.durations import parse_duration
from rules.templates.budget import MATCH_COST, QUERY_COST, Budget, join_bounded
from rules.templates.builtins import escape_query, get_builtins
from rules.templates.lexer import TemplateError
from rules.templates.times import Duration, Time
from rules.templates.values import QueryResult, QuerySample, StringMap, format_go_float, get_type_name, quote

QueryFunction = Callable[[str], Sequence[tuple[Sequence[tuple[str, str]], float]]]
"""Evaluates a PromQL expression to (labels, value) pairs; it may raise any Exception with a readable message."""

Function = tuple[Callable[..., object], tuple[str, ...], bool]
"""A function, the Go types of its parameters, and true when the last parameter may repeat."""

_MAX_NS = 2**63
_LARGE_PREFIXES = ("k", "M", "G", "T", "P", "E", "Z", "Y")
_SMALL_PREFIXES = ("m", "u", "n", "p", "f", "a", "z", "y")
_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+)|(\$))", re.ASCII)
_GO_FLOAT = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf|infinity|nan)", re.IGNORECASE | re.ASCII)
_MID_WORD_CHARACTERS = "'’.:·"


@dataclass(frozen=True)
class ExpansionContext:
    """The inputs of template functions: the time in ms, the agent's address, PromQL at that time, and the budget."""

    now_ms: int
    external_url: str
    query: QueryFunction
    budget: Budget = field(default_factory=Budget)


def list_function_names() -> frozenset[str]:
    """Returns the name of every function that a template may use."""
    return frozenset((*get_builtins(), *build_functions(ExpansionContext(0, "", lambda text: ())), "and", "or"))


def build_functions(context: ExpansionContext) -> dict[str, Function]:
    """Returns every template function bound to the context, except `and` and `or`."""
    url, budget = urllib.parse.urlsplit(context.external_url), context.budget
    table: dict[str, tuple[Callable[..., object], tuple[str, ...]]] = {
        "externalURL": (lambda: context.external_url, ()),
        "first": (_get_first, ("queryResult",)),
        "graphLink": (lambda text: f"/graph?g0.expr={escape_query(text)}&g0.tab=0", ("string",)),
        "humanize": (_humanize, ("any",)),
        "humanize1024": (_humanize1024, ("any",)),
        "humanizeDuration": (_humanize_duration, ("any",)),
        "humanizePercentage": (lambda value: _format_short(to_float(value) * 100) + "%", ("any",)),
        "humanizeTimestamp": (_humanize_timestamp, ("any",)),
        "label": (lambda name, sample: sample.Labels.get(name, ""), ("string", "sample")),
        "match": (
            lambda pattern, text: _compile_pattern(pattern, budget).search(text) is not None,
            ("string", "string"),
        ),
        "now": (lambda: context.now_ms / 1000.0, ()),
        "parseDuration": (_parse_duration, ("string",)),
        "pathPrefix": (lambda: url.path, ()),
        "query": (lambda text: _run_query(context, text), ("string",)),
        "reReplaceAll": (lambda *texts: _replace_all(budget, *texts), ("string", "string", "string")),
        "safeHtml": (lambda text: text, ("string",)),
        "sortByLabel": (_sort_by_label, ("string", "queryResult")),
        "stripDomain": (_strip_domain, ("string",)),
        "stripPort": (_strip_port, ("string",)),
        "strvalue": (lambda sample: sample.Labels.get("__value__", ""), ("sample",)),
        "tableLink": (lambda text: f"/graph?g0.expr={escape_query(text)}&g0.tab=1", ("string",)),
        "title": (_to_title, ("string",)),
        "toDuration": (lambda value: Duration(_to_nanoseconds(value, "duration"), "*time.Duration"), ("any",)),
        "toLower": (lambda text: "".join(map(_to_lower, text)), ("string",)),
        "toTime": (lambda value: _to_time(value), ("any",)),
        "toUpper": (lambda text: "".join(map(_to_upper, text)), ("string",)),
        "urlQueryEscape": (escape_query, ("string",)),
        "value": (lambda sample: sample.Value, ("sample",)),
    }
    extensions: dict[str, Function] = {name: (call, parameters, False) for name, (call, parameters) in table.items()}
    return {**get_builtins(), **extensions, "args": (_collect_args, ("any",), True)}


def to_float(value: object) -> float:
    """Converts as Go's convertToFloat: a number, a numeric string, or a duration to its seconds."""
    if isinstance(value, Duration):
        return value.ns / 1e9
    if isinstance(value, float | int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        if not _GO_FLOAT.fullmatch(value):
            raise TemplateError(f"strconv.ParseFloat: parsing {quote(value)}: invalid syntax")
        return float(value)
    raise TemplateError(f"can't convert {get_type_name(value)} to float")


def _collect_args(*values: object) -> dict[str, object]:
    return {f"arg{index}": value for index, value in enumerate(values)}


def _run_query(context: ExpansionContext, text: str) -> QueryResult:
    context.budget.spend(QUERY_COST + 10 * len(text))  # a query's parser is slower per character than any function here
    try:
        samples = context.query(text)
    except Exception as error:  # a failed query is the template's error, never the rule's
        raise TemplateError(str(error)) from error
    for labels, _ in samples:
        context.budget.spend(sum(len(value) for _, value in labels))
    return QueryResult(QuerySample(StringMap(labels), value) for labels, value in samples)


def _get_first(samples: QueryResult) -> QuerySample:
    if not samples:
        raise TemplateError("first() called on vector with no elements")
    return samples[0]


def _sort_by_label(label: str, samples: QueryResult) -> QueryResult:
    return QueryResult(sorted(samples, key=lambda sample: sample.Labels.get(label, "")))


def _compile_pattern(pattern: str, budget: Budget) -> re.Pattern[str]:
    try:
        compiled: re.Pattern[str] = budget.compile_pattern(pattern)
    except ValueError as error:
        raise TemplateError(f"error parsing regexp: {error}: `{pattern}`") from None
    return compiled


def _replace_all(budget: Budget, pattern: str, replacement: str, text: str) -> str:
    try:
        compiled = _compile_pattern(pattern, budget)
    except TemplateError as error:
        raise TemplateError(f"regexp: Compile(`{pattern}`): {error}") from None
    return join_bounded(_replace_matches(compiled, replacement, text, budget))


def _replace_matches(pattern: re.Pattern[str], replacement: str, text: str, budget: Budget) -> Iterator[str]:
    end = -1
    for match in pattern.finditer(text):
        budget.spend(MATCH_COST + len(replacement))
        if match.start() == match.end() == end:
            continue  # Go takes no empty match right after another match
        yield text[max(end, 0) : match.start()]
        yield from _expand_replacement(replacement, match)
        end = match.end()
    yield text[max(end, 0) :]


def _expand_replacement(replacement: str, match: re.Match[str]) -> Iterator[str]:
    """Expands as Go's Regexp.Expand: `$1x` is the group named "1x", which does not exist; `${1}x` is group 1."""
    end = 0
    for reference in _REFERENCE.finditer(replacement):
        yield replacement[end : reference.start()]
        yield "$" if reference[3] else _get_group(reference[1] or reference[2], match)
        end = reference.end()
    yield replacement[end:]


def _get_group(name: str, match: re.Match[str]) -> str:
    if name.isdecimal():
        return (match[int(name)] or "") if int(name) <= (match.re.groups or 0) else ""
    return (match[name] or "") if name in match.re.groupindex else ""


def _to_upper(character: str) -> str:
    """Converts one character, as Go does: `ß` has no single upper case and stays."""
    return upper if len(upper := character.upper()) == 1 else character


def _to_lower(character: str) -> str:
    return lower if len(lower := character.lower()) == 1 else character


def _to_title(text: str) -> str:
    """Converts the first letter of each word to upper case: golang.org/x/text/cases.Title with NoLower."""
    out: list[str] = []
    inside_word = False
    for index, character in enumerate(text):
        is_cased = character.lower() != character.upper()
        out.append(_to_upper(character) if is_cased and not inside_word else character)
        if is_cased:
            inside_word = True
        elif character in _MID_WORD_CHARACTERS and inside_word:
            inside_word = text[index + 1 : index + 2].isalpha()
        elif not (character.isalnum() or character == "_"):
            inside_word = False
    return "".join(out)


def _split_host_port(text: str) -> tuple[str, str] | None:
    """Splits as net.SplitHostPort; returns None where Go returns an error."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        return None
    if host.startswith("["):
        return (host[1:-1], port) if host.endswith("]") and not set("[]") & set(host[1:-1]) else None
    return None if set(":[]") & set(host) or set("[]") & set(port) else (host, port)


def _strip_port(text: str) -> str:
    split = _split_host_port(text)
    return split[0] if split else text


def _strip_domain(text: str) -> str:
    host, port = _split_host_port(text) or (text, "")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        short = host.split(".")[0]
        return f"{short}:{port}" if port else short
    return text


def _format_short(value: float) -> str:
    return format_go_float(value, "g", 4)


def _humanize(value: object) -> str:
    size = to_float(value)
    if size == 0 or not math.isfinite(size):
        return _format_short(size)
    return _scale_up(size, 1000, _LARGE_PREFIXES) if abs(size) >= 1 else _scale_down(size)


def _humanize1024(value: object) -> str:
    size = to_float(value)
    if abs(size) <= 1 or not math.isfinite(size):
        return _format_short(size)
    return _scale_up(size, 1024, ("ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"))


def _scale_up(size: float, step: int, prefixes: Sequence[str]) -> str:
    prefix = ""
    for larger in prefixes:
        if abs(size) < step:
            break
        prefix = larger
        size /= step
    return _format_short(size) + prefix


def _scale_down(size: float) -> str:
    prefix = ""
    for smaller in _SMALL_PREFIXES:
        if abs(size) >= 1:
            break
        prefix = smaller
        size *= 1000
    return _format_short(size) + prefix


def _humanize_duration(value: object) -> str:
    seconds = to_float(value)
    if not math.isfinite(seconds):
        return _format_short(seconds)
    if seconds == 0 or abs(seconds) < 1:
        return (_scale_down(seconds) if seconds else _format_short(seconds)) + "s"
    sign, size = "-" if seconds < 0 else "", abs(seconds)
    minutes, full_seconds = divmod(int(size), 60)
    if not minutes:
        return f"{sign}{_format_short(size)}s"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days}d"] if days else []
    parts += [f"{hours}h"] if days or hours else []
    return sign + " ".join((*parts, f"{minutes}m", f"{full_seconds}s"))


def _to_nanoseconds(value: object, kind: str) -> int:
    ns = to_float(value) * 1e9
    if not -_MAX_NS <= ns <= _MAX_NS:
        text = format_go_float(to_float(value))
        raise TemplateError(f"{text} cannot be represented as a nanoseconds {kind} since it overflows int64")
    return int(ns)


def _to_time(value: object) -> Time:
    ns = _to_nanoseconds(value, "timestamp")
    ms = abs(ns) // 1_000_000 * (-1 if ns < 0 else 1)  # Prometheus keeps milliseconds
    return Time(ms * 1_000_000, "*time.Time")


def _humanize_timestamp(value: object) -> str:
    seconds = to_float(value)
    return str(_to_time(seconds)) if math.isfinite(seconds) else _format_short(seconds)


def _parse_duration(text: str) -> float:
    try:
        return parse_duration(text) / 1000
    except ValueError as error:
        raise TemplateError(str(error)) from None
