"""
Names the line, the column and the reason of a fault in an expression, as `promtool check rules` does.

The syntax decides where it can. A part that is well formed is tried alone, and the innermost part that the parser
refuses has the fault: so the parser's own checks are located without a copy of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from rules.promql.escapes import explain_escape
from rules.promql.syntax import ExprSyntaxError, Part, read_syntax
from rules.promql.tokens import TEXT

MAX_LOCATED = 16 << 10  # characters of a text whose fault is located; reading more would take a tenth of a second
MAX_TRIED = 1 << 17  # characters; a long chain would be tried once for each of its operators

_EXPERIMENTAL = (
    (re.compile(r"\]\s*(?:smoothed|anchored)\b", re.IGNORECASE), "the range modifiers smoothed and anchored are"),
    (re.compile(r"\[[\w\s.:]*[-+*/%^(][-+*/%^()\w\s.:]*\]|\boffset\s*-?\s*\(", re.I), "duration expressions are"),
)
_TEXT_OR_COMMENT = re.compile(rf"{TEXT}|\#[^\n]*", re.DOTALL)
_TYPE_FAULT = re.compile(r"expected type (?P<expected>\w+) in (?P<place>.*), got (?P<actual>\w+)")
_AT_THE_MARK = re.compile(r"bool modifier|comparisons between|label |ranges only allowed")
_ZERO_DURATION = re.compile(r"[\[:]\s*(?=0)")
_DURATION_FAULT = re.compile(r"not a valid duration string: \"?(?P<duration>\w+(?:\.\w+)?)|duration out of range")
_DURATION = re.compile(r"\d[\w.]*")
_EXAMPLES = {"scalar": "1", "string": '""', "vector": "x", "matrix": "x[1m]"}
_KINDS = {"vector": "instant vector", "matrix": "range vector"}
_PARSE_NUMBER = r'error parsing number: strconv.ParseFloat: parsing "\1": invalid syntax'
_WORDINGS = (
    (re.compile(r"(scalar or |allowed on )vector"), r"\1instant vector"),
    (re.compile(r"got:? matrix"), "got range vector"),
    (re.compile(r"(unary .*, got):? (.*)"), r'\1 "\2"'),
    (re.compile(r"(no arguments for aggregate expression) '\w+'"), r"\1"),
    (re.compile(r"^ParseFloatError\. (.+) can't be parsed into \w+$"), _PARSE_NUMBER),
    (re.compile(r"((?:duration string|duration syntax):) ([^\s\"]+)$"), r'\1 "\2"'),
    (re.compile(r"(?<!\w)'([^'\"]+)'(?!\w)"), r'"\1"'),
)


class Trial(NamedTuple):
    """What the parser makes of a text: the reason of its refusal, or the kind of value."""

    reason: str
    kind: str


def describe_fault(text: str, refusal: str, attempt: Callable[[str], Trial]) -> str:
    """Describes the fault of a text that was refused for that reason; `attempt` tries a part of it."""
    if len(text) > MAX_LOCATED:
        return format_fault(text, 0, refusal)
    try:
        part = read_syntax(text, lambda name: not attempt(f"{name}()").reason.startswith("unknown function"))
    except ExprSyntaxError as fault:
        return format_fault(text, fault.start, _find_experimental(text, fault.start) or str(fault))
    except RecursionError:  # the depth is bounded, but not by what this thread has used of its stack
        return format_fault(text, 0, refusal)
    return format_fault(text, *_Search(text, attempt).descend(part, refusal))


def format_fault(text: str, offset: int, reason: str) -> str:
    """Formats a fault at an offset; lines and columns count from 1."""
    line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
    return f"{line}:{column}: parse error: {reason.removeprefix('parse error: ')}"


def _find_experimental(text: str, offset: int) -> str:
    """Describes the experimental syntax of Prometheus in which the fault is; empty if there is none."""
    code = _TEXT_OR_COMMENT.sub(lambda token: " " * len(token[0]), text)
    for syntax, description in _EXPERIMENTAL:
        if any(match.start() <= offset <= match.end() for match in syntax.finditer(code)):
            return f"{description} experimental in Prometheus and not supported"
    return ""


class _Search:
    """The search for the innermost part with the fault."""

    def __init__(self, text: str, attempt: Callable[[str], Trial]) -> None:
        self._text = text
        self._attempt = attempt
        self._tried = 0

    def descend(self, part: Part, reason: str) -> tuple[int, str]:
        """Returns the offset and the reason of the fault."""
        while True:
            for inner in part.parts:
                trial = self._try(inner)
                if trial.reason:
                    part, reason = inner, trial.reason
                    break
            else:
                return (
                    self._find_escape(part, reason)
                    or self._find_duration(part, reason)
                    or (self._find_offset(part, reason), _word_reason(reason))
                )

    def _try(self, part: Part) -> Trial:
        text = self._text[part.start : part.end]
        if not part.is_matcher:
            return self._attempt_bounded(text)
        trial = self._attempt_bounded(f"{{{text}}}")  # alone it may select everything, which is no fault of the matcher
        return trial if "regexp" in trial.reason else Trial("", "")

    def _attempt_bounded(self, text: str) -> Trial:
        """Tries a text; once enough was tried, nothing is refused, and the fault is that of the part so far."""
        self._tried += len(text)
        return self._attempt(text) if self._tried < MAX_TRIED else Trial("", "")

    def _find_escape(self, part: Part, reason: str) -> tuple[int, str] | None:
        """Finds the string whose escape sequence was refused; the parser says no more than "invalid syntax"."""
        if not reason.startswith(("unknown escape sequence", "invalid syntax")):
            return None
        tokens = _TEXT_OR_COMMENT.finditer(self._text, part.start, part.end)
        faults = ((token.start(), explain_escape(token[0])) for token in tokens)
        return next(((start, fault) for start, fault in faults if fault), None)

    def _find_duration(self, part: Part, reason: str) -> tuple[int, str] | None:
        """Finds the refused duration after the bracket or `offset`; one that is too long is 0 to the parser."""
        if reason.startswith("duration must") and not _ZERO_DURATION.search(self._text, part.mark, part.end):
            reason = "duration out of range"
        if not (fault := _DURATION_FAULT.search(reason)):
            return None
        for duration in _DURATION.finditer(self._text, part.mark, part.end):
            if duration[0] == fault["duration"] or (
                fault["duration"] is None and self._attempt_bounded(f"x[{duration[0]}]").reason
            ):
                return duration.start(), _word_reason(reason.removeprefix("parse error: "))
        return None

    def _find_offset(self, part: Part, reason: str) -> int:
        """Finds what Prometheus points at: an argument, an operator, a duration, or the part as a whole."""
        if _AT_THE_MARK.match(reason):
            return part.mark
        if reason.startswith("duration must") and (zero := _ZERO_DURATION.search(self._text, part.mark)):
            return zero.end()
        if match := _TYPE_FAULT.match(reason):
            return self._find_argument(part, match["expected"], match["actual"])
        if reason.startswith("binary expression"):
            return next((each.start for each in part.parts if self._try(each).kind in ("matrix", "string")), part.start)
        return part.start

    def _find_argument(self, part: Part, expected: str, actual: str) -> int:
        """Finds the argument of the wrong kind: with a value of the expected kind in its place, all is well."""
        candidates = [inner for inner in part.parts if self._try(inner).kind == actual]
        for inner in candidates:
            before, after = self._text[part.start : inner.start], self._text[inner.end : part.end]
            if not self._attempt_bounded(f"{before}{_EXAMPLES.get(expected, '')}{after}").reason:
                return inner.start
        return candidates[0].start if candidates else part.start


def _word_reason(reason: str) -> str:
    """Words a reason of promql-parser as Prometheus does: "instant vector" for "vector", and double quotes."""
    if match := _TYPE_FAULT.match(reason):
        expected, actual = (_KINDS.get(match[name], match[name]) for name in ("expected", "actual"))
        is_parameter = match["place"].startswith("aggregation") and expected in ("scalar", "string")
        place = "aggregation parameter" if is_parameter else match["place"]
        reason = f"expected type {expected} in {place}, got {actual}"
    for pattern, wording in _WORDINGS:
        reason = pattern.sub(wording, reason)
    return reason
