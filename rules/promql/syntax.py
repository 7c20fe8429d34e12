"""
Reads the syntax of PromQL with the place of each part; the first token that cannot follow raises ExprSyntaxError.

It runs only over text that promql-parser has refused, whose grammar it repeats. The reasons are Prometheus'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rules.promql.tokens import Lexeme, quote, scan

_PRECEDENCES = {
    **dict.fromkeys(("or",), 1),
    **dict.fromkeys(("and", "unless"), 2),
    **dict.fromkeys(("==", "!=", "<", ">", "<=", ">="), 3),
    **dict.fromkeys(("+", "-"), 4),
    **dict.fromkeys(("*", "/", "%", "atan2"), 5),
    "^": 6,
}
_SIGN_PRECEDENCE = 5  # of a sign: -x^2 is -(x^2), and -x*y is (-x)*y
_RESERVED = ("bool", "group_left", "group_right", "ignoring", "on")
_NAMES = ("identifier", "metric identifier", "aggr", "keyword", "op")


class ExprSyntaxError(Exception):
    """The text is wrong at `start`, an offset."""

    def __init__(self, start: int, reason: str) -> None:
        super().__init__(reason)
        self.start = start


@dataclass
class Part:
    """A part of an expression from `start` to `end`; `mark` is the offset of its operator or bracket."""

    start: int
    end: int
    mark: int
    parts: list[Part] = field(default_factory=list)
    is_matcher: bool = False
    is_selector: bool = False


def read_syntax(text: str, is_function: Callable[[str], bool]) -> Part:
    """
    Returns the whole expression as a tree of parts; raises ExprSyntaxError.

    An unknown function, or a range of what has none, is the fault unless the syntax before its end is wrong.
    """
    reader = _SyntaxReader(text, is_function)
    try:
        part = reader.read_expression(0)
        if reader.token.kind != "end":
            raise reader.refuse()
    except ExprSyntaxError as fault:
        raise reader.misuse or fault from None
    if reader.misuse:
        raise reader.misuse
    return part


def _is_metric_name(text: str) -> bool:
    """True for a word that may name a metric, as most keywords may."""
    return _is_word(text) and text.lower() not in _RESERVED


def _is_word(text: str) -> bool:
    return text[0].isalpha() or text[0] in "_:"


class _SyntaxReader:
    """Reads one token after another; `token` is the next one."""

    def __init__(self, text: str, is_function: Callable[[str], bool]) -> None:
        self._tokens = scan(text)
        self._is_function = is_function
        self.misuse: ExprSyntaxError | None = None
        self._end = 0
        self._aggregations = 0
        self.token = self._scan_token()
        if self.token.kind == "end":
            raise ExprSyntaxError(0, "no expression found in input")

    def _scan_token(self) -> Lexeme:
        token = next(self._tokens)
        if token.kind == "fault":
            raise ExprSyntaxError(token.start, token.text)
        return token

    def _advance(self) -> Lexeme:
        token, self._end = self.token, self.token.end
        self.token = self._scan_token() if token.kind != "end" else token
        return token

    def _is_word(self, *words: str) -> bool:
        return self.token.kind in ("keyword", "op", "aggr") and self.token.text.lower() in words

    def _accept(self, mark: str) -> bool:
        if self.token.kind == "mark" and self.token.text == mark:
            self._advance()
            return True
        return False

    def refuse(self, context: str = "", expected: str = "") -> ExprSyntaxError:
        """Makes the fault of an unexpected token."""
        context = context or ("aggregation" if self._aggregations else "")
        reason = f"unexpected {self.token.describe()}"
        reason += f" in {context}" if context else ""
        return ExprSyntaxError(self.token.start, reason + (f", expected {expected}" if expected else ""))

    def read_expression(self, least: int) -> Part:
        """Reads operands and the operators between them that bind at least as tightly as `least`."""
        left = self._read_operand()
        while self.token.kind == "op" and _PRECEDENCES.get(self.token.text.lower(), -1) >= least:
            operator = self._advance()
            precedence = _PRECEDENCES[operator.text.lower()]
            self._read_matching()
            right = self.read_expression(precedence if operator.text == "^" else precedence + 1)
            left = Part(left.start, right.end, operator.start, [left, right])
        return left

    def _read_matching(self) -> None:
        if self._is_word("bool"):
            self._advance()
        if self._is_word("on", "ignoring"):
            self._advance()
            self._read_labels()
            if self._is_word("group_left", "group_right"):
                self._advance()
                if self.token.text == "(":
                    self._read_labels()

    def _read_labels(self) -> None:
        if not self._accept("("):
            raise self.refuse("grouping opts", '"("')
        while not self._accept(")"):
            if self.token.kind != "string" and not (self.token.kind in _NAMES and _is_word(self.token.text)):
                raise self.refuse("grouping opts", "label")
            self._advance()
            if self.token.text not in (",", ")"):
                raise self.refuse("grouping opts", '"," or ")"')
            self._accept(",")

    def _read_operand(self) -> Part:
        if self.token.kind == "op" and self.token.text in "+-":
            sign = self._advance()
            operand = self.read_expression(_SIGN_PRECEDENCE + 1)
            return Part(sign.start, operand.end, sign.start, [operand])
        part = self._read_primary()
        while True:
            if self.token.text == "[":
                part = self._read_range(part)
            elif self._is_word("offset"):
                part = self._read_offset(part)
            elif self.token.kind == "op" and self.token.text == "@":
                part = self._read_time(part)
            else:
                return part

    def _read_primary(self) -> Part:
        token = self.token
        if token.text == "(" and token.kind == "mark":
            self._advance()
            inner = self.read_expression(0)
            if not self._accept(")"):
                raise self.refuse()
            return Part(token.start, self._end, token.start, [inner])
        if token.text == "{" and token.kind == "mark":
            return self._read_matchers(token.start)
        if token.kind in ("number", "string", "duration"):
            self._advance()
            return Part(token.start, self._end, token.start)
        if token.kind not in _NAMES or not _is_metric_name(token.text):
            raise self.refuse()
        return self._read_name()

    def _read_name(self) -> Part:
        name = self._advance()
        if name.kind == "aggr" and (self.token.text == "(" or self._is_word("by", "without")):
            return self._read_aggregation(name)
        if name.kind == "identifier" and self._accept("("):
            arguments = self._read_arguments()
            if not self._is_function(name.text):
                self._note_misuse(name.start, f"unknown function with name {quote(name.text)}")
            return Part(name.start, self._end, name.start, arguments)
        if self.token.kind == "mark" and self.token.text == "{":
            return self._read_matchers(name.start)
        return Part(name.start, self._end, name.start, is_selector=True)

    def _read_aggregation(self, name: Lexeme) -> Part:
        self._aggregations += 1
        has_labels = self._is_word("by", "without")
        if has_labels:
            self._advance()
            self._read_labels()
        if not self._accept("("):
            raise self.refuse()
        arguments = self._read_arguments()
        self._aggregations -= 1
        if not has_labels and self._is_word("by", "without"):
            self._advance()
            self._read_labels()
        return Part(name.start, self._end, name.start, arguments)

    def _read_arguments(self) -> list[Part]:
        arguments: list[Part] = []
        if self._accept(")"):
            return arguments
        while True:
            arguments.append(self.read_expression(0))
            if self._accept(")"):
                return arguments
            comma = self.token
            if not self._accept(","):
                raise self.refuse()
            if not self._can_begin_expression():
                raise ExprSyntaxError(comma.start, "trailing commas not allowed in function call args")

    def _read_matchers(self, start: int) -> Part:
        self._advance()
        matchers: list[Part] = []
        while not self._accept("}"):
            label = self.token
            if label.kind not in ("identifier", "string"):
                raise self.refuse("label matching", 'identifier or "}"')
            self._advance()
            if label.kind == "identifier" or self.token.text not in (",", "}"):
                self._read_condition()
            matchers.append(Part(label.start, self._end, label.start, is_matcher=True))
            if self.token.text not in (",", "}"):
                raise self.refuse("label matching", '"," or "}"')
            self._accept(",")
        return Part(start, self._end, start, matchers, is_selector=True)

    def _read_condition(self) -> None:
        if self.token.text not in ("=", "!=", "=~", "!~"):
            raise self.refuse("label matching", "label matching operator")
        self._advance()
        if self.token.kind != "string":
            raise self.refuse("label matching", "string")
        self._advance()

    def _read_range(self, part: Part) -> Part:
        bracket = self._advance()
        if self.token.kind not in ("duration", "number"):
            raise ExprSyntaxError(self.token.start, "missing unit character in duration")
        self._advance()
        if self._accept(":"):
            if self.token.kind in ("duration", "number"):
                self._advance()
            if not self._accept("]"):
                raise self.refuse("subquery selector", '"]"')
        elif not self._accept("]"):
            raise self.refuse("subquery or range", '":" or "]"')
        elif not part.is_selector:
            self._note_misuse(bracket.start, "ranges only allowed for vector selectors")
        return Part(part.start, self._end, bracket.start, [part])

    def _note_misuse(self, start: int, reason: str) -> None:
        self.misuse = self.misuse or ExprSyntaxError(start, reason)

    def _can_begin_expression(self) -> bool:
        token = self.token
        if token.kind in ("mark", "op"):
            return token.text in ("(", "{", "+", "-") or _is_metric_name(token.text)
        return token.kind != "end" and token.text.lower() not in _RESERVED

    def _read_offset(self, part: Part) -> Part:
        word = self._advance()
        if self.token.text in ("+", "-"):
            self._advance()
        if self.token.kind not in ("duration", "number"):
            raise self.refuse("offset", "duration")
        self._advance()
        return Part(part.start, self._end, word.start, [part])

    def _read_time(self, part: Part) -> Part:
        mark = self._advance()
        if self._is_word("start", "end"):
            self._advance()
            if not (self._accept("(") and self._accept(")")):
                raise self.refuse("@", "timestamp")
            return Part(part.start, self._end, mark.start, [part])
        if self.token.text in ("+", "-"):
            self._advance()
        if self.token.kind != "number":
            raise self.refuse("@", "timestamp")
        self._advance()
        return Part(part.start, self._end, mark.start, [part])
