"""Tokens to tree: https://pkg.go.dev/text/template, src/text/template/parse/parse.go and its error texts."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal, NoReturn, cast

from rules.templates.lexer import KEYWORDS, LexicalError, TemplateError, Token, tokens, unquote
from rules.templates.nodes import (
    Action,
    Body,
    Branch,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Identifier,
    Invoke,
    Jump,
    Nil,
    Node,
    Operand,
    Pipe,
    Text,
    Variable,
)
from rules.templates.times import KINDS

DEEPEST = 100  # nested blocks and parentheses; the interpreter is recursive and so is this parser
MOST_VARIABLES = 200  # in one place; each is looked for among all


def parse(name: str, text: str, functions: Collection[str]) -> dict[str, Body]:
    """The named templates in a text, the text itself under `name`; raises TemplateError with Go's words."""
    try:
        return _Parser(name, text, functions).whole()
    except LexicalError as error:
        raise TemplateError(f"template: {name}:{error.line}: {error}") from None


class _Parser:
    def __init__(self, name: str, text: str, functions: Collection[str]) -> None:
        self.name = name
        self.functions = functions
        self.tokens = tokens(text)
        self.at = 0
        self.variables: list[str] = ["$"]
        self.loops = 0
        self.depth = 0
        self.templates: dict[str, Body] = {}

    def peek(self) -> Token:
        return self.tokens[self.at]

    def next(self) -> Token:
        token = self.tokens[self.at]
        self.at += token.kind != "EOF"
        return token

    def next_solid(self) -> Token:
        while (token := self.next()).kind == "space":
            pass
        return token

    def peek_solid(self) -> Token:
        while self.peek().kind == "space":
            self.at += 1
        return self.peek()

    def fail(self, message: str, line: int | None = None) -> NoReturn:
        raise self.error(message, line)

    def error(self, message: str, line: int | None = None) -> TemplateError:
        last = self.tokens[max(self.at - 1, 0)].line
        return TemplateError(f"template: {self.name}:{line or last}: {message}")

    def unexpected(self, token: Token, context: str) -> NoReturn:
        shown = "EOF" if token.kind == "EOF" else f"<{token.text}>" if token.kind in KEYWORDS else f'"{token.text}"'
        self.fail(f"unexpected {shown} in {context}", token.line)

    def expect(self, kind: str, context: str) -> Token:
        token = self.next_solid()
        if token.kind != kind:
            self.unexpected(token, context)
        return token

    # -- blocks

    def whole(self) -> dict[str, Body]:
        body: list[Node] = []
        while self.peek().kind != "EOF":
            if self.peek().kind == "left" and self.after_left() == "define":
                self.define()
                continue
            node = self.text_or_action()
            if isinstance(node, str):
                self.fail(f"unexpected {{{{{node}}}}}")
            body.append(node)
        self.add(self.name, tuple(body))
        return self.templates

    def after_left(self) -> str:
        at = self.at + 1
        while self.tokens[at].kind == "space":
            at += 1
        return self.tokens[at].kind

    def add(self, name: str, body: Body) -> None:
        filled = any(not isinstance(node, Text) or node.text.strip() for node in body)
        old = self.templates.get(name, ())
        if filled and any(not isinstance(node, Text) or node.text.strip() for node in old):
            self.fail(f'template: multiple definition of template "{name}"')
        if filled or name not in self.templates:
            self.templates[name] = body

    def define(self) -> None:
        self.next()
        self.next_solid()
        name = self.string_name("define clause")
        self.expect("right", "define clause")
        self.separate(name, "define clause")

    def separate(self, name: str, context: str) -> None:
        kept, self.variables = self.variables, ["$"]
        loops, self.loops = self.loops, 0
        body, end = self.items()
        if end != "end":
            self.fail(f"unexpected {{{{{end}}}}} in {context}")
        self.variables, self.loops = kept, loops
        self.add(name, body)

    def string_name(self, context: str) -> str:
        token = self.next_solid()
        if token.kind not in ("string", "raw string"):
            self.unexpected(token, context)
        return self.unquoted(token)

    def items(self) -> tuple[Body, str]:
        """Nodes up to an `else` or `end`, and which of them it was; the token after `else` is not yet read."""
        self.deeper()
        body: list[Node] = []
        while self.peek().kind != "EOF":
            node = self.text_or_action()
            if isinstance(node, str):
                self.depth -= 1
                return tuple(body), node
            body.append(node)
        raise self.error("unexpected EOF", self.peek().line)

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(f"nested more than {DEEPEST} deep")

    def text_or_action(self) -> Node | Literal["else", "end"]:
        token = self.next_solid()
        if token.kind == "text":
            return Text(token.position, token.text)
        if token.kind != "left":
            self.unexpected(token, "input")
        return self.action()

    def action(self) -> Node | Literal["else", "end"]:
        token = self.next_solid()
        if token.kind in ("if", "with", "range"):
            return self.branch(token, cast(Literal["if", "with", "range"], token.kind))
        if token.kind == "else":
            if self.peek_solid().kind not in ("if", "with"):
                self.expect("right", "else")
            return "else"
        if token.kind == "end":
            self.expect("right", "end")
            return "end"
        if token.kind in ("break", "continue"):
            return self.jump(token, cast(Literal["break", "continue"], token.kind))
        if token.kind == "template":
            return self.invoke()
        if token.kind == "block":
            return self.block(token)
        if token.kind == "define":
            self.unexpected(token, "command")
        self.at -= 1
        position = self.peek().position
        return Action(position, self.pipeline("command", "right"))

    def jump(self, token: Token, kind: Literal["break", "continue"]) -> Jump:
        if self.next_solid().kind != "right":
            self.unexpected(self.tokens[self.at - 1], f"{{{{{kind}}}}}")
        if not self.loops:
            self.fail(f"{{{{{kind}}}}} outside {{{{range}}}}")
        return Jump(token.position, kind)

    def branch(self, token: Token, kind: Literal["if", "with", "range"]) -> Branch:
        mark = len(self.variables)
        pipe = self.pipeline(kind, "right")
        self.loops += kind == "range"
        body, end = self.items()
        self.loops -= kind == "range"
        otherwise = self.otherwise(kind) if end == "else" else ()
        del self.variables[mark:]
        return Branch(token.position, kind, pipe, body, otherwise)

    def otherwise(self, kind: str) -> Body:
        chained = self.peek()
        if chained.kind in ("if", "with") and chained.kind == kind:
            self.deeper()
            self.next()
            nested = self.branch(chained, cast(Literal["if", "with"], kind))
            self.depth -= 1
            return (nested,)
        if chained.kind in ("if", "with"):
            self.unexpected(chained, "else")
        body, end = self.items()
        if end != "end":
            self.fail("expected end; found {{else}}")
        return body

    def invoke(self) -> Invoke:
        position = self.peek_solid().position
        name = self.string_name("template clause")
        if self.peek_solid().kind == "right":
            self.next()
            return Invoke(position, name, None)
        return Invoke(position, name, self.pipeline("template clause", "right"))

    def block(self, token: Token) -> Invoke:
        name = self.string_name("block clause")
        pipe = self.pipeline("block clause", "right")
        self.separate(name, "block clause")
        return Invoke(token.position, name, pipe)

    # -- pipelines

    def pipeline(self, context: str, end: str) -> Pipe:
        first = self.peek_solid()
        declares, assigns = self.declarations(context)
        commands: list[Command] = []
        while True:
            token = self.next_solid()
            if token.kind == end:
                break
            if token.kind in ("pipe", "EOF", "right", "right paren", "declare", "assign", "char", *KEYWORDS - {"nil"}):
                self.unexpected(token, context)
            self.at -= 1
            commands.append(self.command())
        self.check(commands, context)
        if declares and not assigns:
            self.variables.extend(declares)
            if len(self.variables) > MOST_VARIABLES:
                self.fail(f"more than {MOST_VARIABLES} variables")
        return Pipe(first.position, first.line, declares, assigns, tuple(commands))

    def check(self, commands: list[Command], context: str) -> None:
        if not commands:
            self.fail(f"missing value for {context}")
        for stage, command in enumerate(commands[1:], start=2):
            if isinstance(command.args[0], Constant | Dot | Nil):
                self.fail(f"non executable command in pipeline stage {stage}")

    def declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        names: list[str] = []
        start = self.at
        while self.peek_solid().kind == "variable":
            variable = self.next()
            after = self.peek_solid()
            if after.kind in ("declare", "assign"):
                self.next()
                if after.kind == "assign":
                    self.known(variable)
                return (*names, variable.text), after.kind == "assign"
            if after.kind != "char" or context != "range" or names:
                if after.kind == "char":
                    self.fail(f"too many declarations in {context}")
                break
            self.next()
            names.append(variable.text)
        self.at = start
        return (), False

    def known(self, variable: Token) -> None:
        if variable.text not in self.variables:
            self.fail(f'undefined variable "{variable.text}"', variable.line)

    def command(self) -> Command:
        position = self.peek_solid().position
        args: list[Operand] = []
        while True:
            self.peek_solid()
            operand = self.operand()
            if operand is not None:
                args.append(operand)
            token = self.next()
            if token.kind == "space":
                continue
            if token.kind in ("right", "right paren"):
                self.at -= 1
            elif token.kind != "pipe":
                self.unexpected(token, "operand")
            break
        if not args:
            self.fail("empty command")
        return Command(position, tuple(args))

    def operand(self) -> Operand | None:
        node = self.term()
        position = self.peek().position
        names: list[str] = []
        while node is not None and self.peek().kind == "field":
            names.append(self.next().text[1:])
        if node is None or not names:
            return node
        if isinstance(node, Field):
            return Field(position, (*node.names, *names))
        if isinstance(node, Variable):
            return Variable(position, node.name, tuple(names))
        if isinstance(node, Constant | Nil | Dot):
            self.fail(f'unexpected . after term "{node}"')
        chain = Chain(position, node, tuple(names))
        self.kind_of(chain)
        return chain

    def kind_of(self, node: Operand) -> str:
        """Whether it is a time or a duration, where that can be seen; fails where it has not the method asked for."""
        if isinstance(node, Pipe):
            return self.kind_of(node.commands[-1].args[0])
        if isinstance(node, Identifier):
            return {"toTime": "time", "toDuration": "duration"}.get(node.name, "")
        if not isinstance(node, Chain):
            return ""
        kind = self.kind_of(node.node)
        for name in node.names:
            if kind and name not in KINDS[kind]:
                self.fail(f"a {kind} has no method {name} here; it has {', '.join(KINDS[kind])}")
            kind = KINDS[kind][name].gives if kind else ""
        return kind

    def term(self) -> Operand | None:
        token = self.next_solid()
        kind, text, position = token.kind, token.text, token.position
        if kind == "identifier":
            if text not in self.functions:
                self.fail(f'function "{text}" not defined', token.line)
            return Identifier(position, text)
        if kind == "dot":
            return Dot(position)
        if kind == "nil":
            return Nil(position)
        if kind == "variable":
            self.known(token)
            return Variable(position, text)
        if kind == "field":
            return Field(position, (text[1:],))
        if kind == "left paren":
            return self.parenthesis()
        if kind in ("bool", "number", "character", "string", "raw string"):
            return Constant(position, text, self.constant(token))
        self.at -= kind != "EOF"
        return None

    def parenthesis(self) -> Pipe:
        self.deeper()
        pipe = self.pipeline("parenthesized pipeline", "right paren")
        self.depth -= 1
        return pipe

    def constant(self, token: Token) -> bool | int | float | str:
        if token.kind == "bool":
            return token.text == "true"
        if token.kind == "number":
            return self.number(token)
        value = self.unquoted(token)
        if token.kind != "character":
            return value
        if len(value) != 1:
            self.fail(f"malformed character constant: {token.text}", token.line)
        return ord(value)

    def unquoted(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueError:
            self.fail("invalid syntax", token.line)

    def number(self, token: Token) -> int | float:
        text = token.text.replace("_", "")
        try:
            if re.fullmatch(r"[+-]?0[0-7]+", text):  # Go's old octal
                return int(text, 8)
            if re.fullmatch(r"[+-]?(\d+|0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+)", text):
                return int(text, 0)
            return float(text)
        except ValueError:
            self.fail(f'bad number syntax: "{token.text}"', token.line)
