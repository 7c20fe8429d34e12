"""
The functions Prometheus adds to Go's: https://prometheus.io/docs/prometheus/latest/configuration/template_reference/.

Each is written after prometheus/template/template.go; a failure is a TemplateError in its words.
"""

from __future__ import annotations

import ipaddress
import math
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import re2

from rules.durations import parse_duration
from rules.templates.budget import MATCH, QUERY, Budget, bounded
from rules.templates.builtins import builtins, escape_query
from rules.templates.lexer import TemplateError
from rules.templates.times import Duration, Time
from rules.templates.values import QueryResult, QuerySample, Strings, go_float, quoted, type_name

QueryFunction = Callable[[str], Sequence[tuple[Sequence[tuple[str, str]], float]]]
"""Answers a PromQL expression with (labels, value) pairs; it may raise any Exception with a readable message."""

Function = tuple[Callable[..., object], tuple[str, ...], bool]
"""A function, the Go types of its parameters, and whether the last may repeat."""

LARGEST_PATTERN = 1 << 20
"""Bytes that a compiled regular expression may take; with RE2's own 8 MiB a short one takes a quarter of a second."""

_LARGEST_NS = 2**63
_BIG = ("k", "M", "G", "T", "P", "E", "Z", "Y")
_SMALL = ("m", "u", "n", "p", "f", "a", "z", "y")
_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+)|(\$))", re.ASCII)
_GO_FLOAT = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf|infinity|nan)", re.IGNORECASE | re.ASCII)
_TITLE_MIDDLE = "'’.:·"


@dataclass(frozen=True)
class Surroundings:
    """What a template may ask of the world: the time in ms, the agent's address, PromQL at that time; its budget."""

    now_ms: int
    external_url: str
    query: QueryFunction
    budget: Budget = field(default_factory=Budget)


def names() -> frozenset[str]:
    """Every function a template may name."""
    return frozenset((*builtins(), *functions(Surroundings(0, "", lambda text: ())), "and", "or"))


def functions(around: Surroundings) -> dict[str, Function]:
    """Every function of a template with these surroundings, except `and` and `or`."""
    address, budget = urllib.parse.urlsplit(around.external_url), around.budget
    table: dict[str, tuple[Callable[..., object], tuple[str, ...]]] = {
        "externalURL": (lambda: around.external_url, ()),
        "first": (_first, ("queryResult",)),
        "graphLink": (lambda text: f"/graph?g0.expr={escape_query(text)}&g0.tab=0", ("string",)),
        "humanize": (_humanize, ("any",)),
        "humanize1024": (_humanize1024, ("any",)),
        "humanizeDuration": (_humanize_duration, ("any",)),
        "humanizePercentage": (lambda value: _short(number(value) * 100) + "%", ("any",)),
        "humanizeTimestamp": (_humanize_timestamp, ("any",)),
        "label": (lambda name, sample: sample.Labels.get(name, ""), ("string", "sample")),
        "match": (lambda pattern, text: _pattern(pattern, budget).search(text) is not None, ("string", "string")),
        "now": (lambda: around.now_ms / 1000.0, ()),
        "parseDuration": (_parse_duration, ("string",)),
        "pathPrefix": (lambda: address.path, ()),
        "query": (lambda text: _query(around, text), ("string",)),
        "reReplaceAll": (lambda *texts: _replace_all(budget, *texts), ("string", "string", "string")),
        "safeHtml": (lambda text: text, ("string",)),
        "sortByLabel": (_sort_by_label, ("string", "queryResult")),
        "stripDomain": (_strip_domain, ("string",)),
        "stripPort": (_strip_port, ("string",)),
        "strvalue": (lambda sample: sample.Labels.get("__value__", ""), ("sample",)),
        "tableLink": (lambda text: f"/graph?g0.expr={escape_query(text)}&g0.tab=1", ("string",)),
        "title": (_title, ("string",)),
        "toDuration": (lambda value: Duration(_nanoseconds(value, "duration"), "*time.Duration"), ("any",)),
        "toLower": (lambda text: "".join(map(_lower, text)), ("string",)),
        "toTime": (lambda value: _time(value), ("any",)),
        "toUpper": (lambda text: "".join(map(_upper, text)), ("string",)),
        "urlQueryEscape": (escape_query, ("string",)),
        "value": (lambda sample: sample.Value, ("sample",)),
    }
    made: dict[str, Function] = {name: (call, parameters, False) for name, (call, parameters) in table.items()}
    return {**builtins(), **made, "args": (_args, ("any",), True)}


def number(value: object) -> float:
    """A float of what Go's convertToFloat takes: a number, a string that is one, or a duration, in seconds."""
    if isinstance(value, Duration):
        return value.ns / 1e9
    if isinstance(value, float | int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        if not _GO_FLOAT.fullmatch(value):
            raise TemplateError(f"strconv.ParseFloat: parsing {quoted(value)}: invalid syntax")
        return float(value)
    raise TemplateError(f"can't convert {type_name(value)} to float")


def _args(*values: object) -> dict[str, object]:
    return {f"arg{index}": value for index, value in enumerate(values)}


def _query(around: Surroundings, text: str) -> QueryResult:
    around.budget.spend(QUERY + 10 * len(text))  # its parser takes longer for a character than any function here
    try:
        return QueryResult(QuerySample(Strings(labels), value) for labels, value in around.query(text))
    except Exception as error:  # whatever a query dies of is this template's error, never the rule's
        raise TemplateError(str(error)) from error


def _first(samples: QueryResult) -> QuerySample:
    if not samples:
        raise TemplateError("first() called on vector with no elements")
    return samples[0]


def _sort_by_label(label: str, samples: QueryResult) -> QueryResult:
    return QueryResult(sorted(samples, key=lambda sample: sample.Labels.get(label, "")))


def _pattern(pattern: str, budget: Budget) -> re.Pattern[str]:
    options = re2.Options()
    options.log_errors = False  # the error is in the template's text already; RE2 would print it once more
    options.max_mem = LARGEST_PATTERN
    budget.compile(pattern)
    try:
        compiled: re.Pattern[str] = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error.args[0])
        raise TemplateError(f"error parsing regexp: {reason}: `{pattern}`") from None
    budget.compiled(pattern)
    return compiled


def _replace_all(budget: Budget, pattern: str, replacement: str, text: str) -> str:
    try:
        compiled = _pattern(pattern, budget)
    except TemplateError as error:
        raise TemplateError(f"regexp: Compile(`{pattern}`): {error}") from None
    return bounded(_replaced(compiled, replacement, text, budget))


def _replaced(pattern: re.Pattern[str], replacement: str, text: str, budget: Budget) -> Iterator[str]:
    end = -1
    for found in pattern.finditer(text):
        budget.spend(MATCH + len(replacement))
        if found.start() == found.end() == end:
            continue  # Go takes no empty match right after another match
        yield text[max(end, 0) : found.start()]
        yield from _filled(replacement, found)
        end = found.end()
    yield text[max(end, 0) :]


def _filled(replacement: str, found: re.Match[str]) -> Iterator[str]:
    """Go's Regexp.Expand: `$1x` is the group named "1x", which nobody has; `${1}x` is what was meant."""
    end = 0
    for reference in _REFERENCE.finditer(replacement):
        yield replacement[end : reference.start()]
        yield "$" if reference[3] else _group(reference[1] or reference[2], found)
        end = reference.end()
    yield replacement[end:]


def _group(name: str, found: re.Match[str]) -> str:
    if name.isdecimal():
        return (found[int(name)] or "") if int(name) <= (found.re.groups or 0) else ""
    return (found[name] or "") if name in found.re.groupindex else ""


def _upper(sign: str) -> str:
    """Sign by sign, as Go: `ß` has no single upper case and stays."""
    return raised if len(raised := sign.upper()) == 1 else sign


def _lower(sign: str) -> str:
    return lowered if len(lowered := sign.lower()) == 1 else sign


def _title(text: str) -> str:
    """The first letter of each word in upper case, the rest left: golang.org/x/text/cases.Title with NoLower."""
    out: list[str] = []
    inside = False
    for index, sign in enumerate(text):
        cased = sign.lower() != sign.upper()
        out.append(_upper(sign) if cased and not inside else sign)
        if cased:
            inside = True
        elif sign in _TITLE_MIDDLE and inside:
            inside = text[index + 1 : index + 2].isalpha()
        elif not (sign.isalnum() or sign == "_"):
            inside = False
    return "".join(out)


def _split_host_port(text: str) -> tuple[str, str] | None:
    """net.SplitHostPort, or None where it gives an error."""
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


def _short(value: float) -> str:
    return go_float(value, "g", 4)


def _humanize(value: object) -> str:
    size = number(value)
    if size == 0 or not math.isfinite(size):
        return _short(size)
    return _scaled_up(size, 1000, _BIG) if abs(size) >= 1 else _scaled_down(size)


def _humanize1024(value: object) -> str:
    size = number(value)
    if abs(size) <= 1 or not math.isfinite(size):
        return _short(size)
    return _scaled_up(size, 1024, ("ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"))


def _scaled_up(size: float, step: int, prefixes: Sequence[str]) -> str:
    prefix = ""
    for larger in prefixes:
        if abs(size) < step:
            break
        prefix = larger
        size /= step
    return _short(size) + prefix


def _scaled_down(size: float) -> str:
    prefix = ""
    for smaller in _SMALL:
        if abs(size) >= 1:
            break
        prefix = smaller
        size *= 1000
    return _short(size) + prefix


def _humanize_duration(value: object) -> str:
    seconds = number(value)
    if not math.isfinite(seconds):
        return _short(seconds)
    if seconds == 0 or abs(seconds) < 1:
        return (_scaled_down(seconds) if seconds else _short(seconds)) + "s"
    sign, size = "-" if seconds < 0 else "", abs(seconds)
    minutes, whole = divmod(int(size), 60)
    if not minutes:
        return f"{sign}{_short(size)}s"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days}d"] if days else []
    parts += [f"{hours}h"] if days or hours else []
    return sign + " ".join((*parts, f"{minutes}m", f"{whole}s"))


def _nanoseconds(value: object, what: str) -> int:
    ns = number(value) * 1e9
    if not -_LARGEST_NS <= ns <= _LARGEST_NS:
        shown = go_float(number(value))
        raise TemplateError(f"{shown} cannot be represented as a nanoseconds {what} since it overflows int64")
    return int(ns)


def _time(value: object) -> Time:
    ns = _nanoseconds(value, "timestamp")
    ms = abs(ns) // 1_000_000 * (-1 if ns < 0 else 1)  # all that Prometheus keeps of a time
    return Time(ms * 1_000_000, "*time.Time")


def _humanize_timestamp(value: object) -> str:
    seconds = number(value)
    return str(_time(seconds)) if math.isfinite(seconds) else _short(seconds)


def _parse_duration(text: str) -> float:
    try:
        return parse_duration(text) / 1000
    except ValueError as error:
        raise TemplateError(str(error)) from None
