"""Parses tokens as Go's src/text/template/parse/parse.go, with its error texts: https://pkg.go.dev/text/template."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NoReturn, cast

from rules.templates.lexer import KEYWORDS, LexicalError, TemplateError, Token, tokenize, unquote
from rules.templates.nodes import (
    ActionNode,
    Body,
    Branch,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Identifier,
    Jump,
    Nil,
    Node,
    Operand,
    Pipe,
    TemplateCall,
    TextNode,
    Variable,
)
from rules.templates.numbers import parse_number
from rules.templates.times import METHODS_BY_KIND

MAX_DEPTH = 100  # nested blocks and parentheses; both the parser and the interpreter are recursive
MAX_VARIABLES = 200  # visible at one point; each lookup searches all of them


def parse(name: str, text: str, functions: Collection[str]) -> dict[str, Body]:
    """Returns the named templates of a text, the text itself under `name`; raises TemplateError with Go's message."""
    try:
        return _Parser(name, text, functions).parse_templates()
    except LexicalError as error:
        raise TemplateError(f"template: {name}:{error.line}: {error}") from None


class _Parser:
    def __init__(self, name: str, text: str, functions: Collection[str]) -> None:
        self.name = name
        self.functions = functions
        self.tokens = tokenize(text)
        self.index = 0
        self.variables: list[str] = ["$"]
        self.loop_depth = 0
        self.depth = 0
        self.templates: dict[str, Body] = {}

    def peek(self) -> Token:
        return self.tokens[self.index]

    def next(self) -> Token:
        token = self.tokens[self.index]
        self.index += token.kind != "EOF"
        return token

    def next_non_space(self) -> Token:
        while (token := self.next()).kind == "space":
            pass
        return token

    def peek_non_space(self) -> Token:
        while self.peek().kind == "space":
            self.index += 1
        return self.peek()

    def fail(self, message: str, line: int | None = None) -> NoReturn:
        raise self.make_error(message, line)

    def make_error(self, message: str, line: int | None = None) -> TemplateError:
        last_line = self.tokens[max(self.index - 1, 0)].line
        return TemplateError(f"template: {self.name}:{line or last_line}: {message}")

    def fail_unexpected(self, token: Token, context: str) -> NoReturn:
        description = (
            "EOF" if token.kind == "EOF" else f"<{token.text}>" if token.kind in KEYWORDS else f'"{token.text}"'
        )
        self.fail(f"unexpected {description} in {context}", token.line)

    def expect(self, kind: str, context: str) -> Token:
        token = self.next_non_space()
        if token.kind != kind:
            self.fail_unexpected(token, context)
        return token

    # -- blocks

    def parse_templates(self) -> dict[str, Body]:
        body: list[Node] = []
        while self.peek().kind != "EOF":
            if self.peek().kind == "left" and self.peek_after_left() == "define":
                self.parse_define()
                continue
            node = self.parse_text_or_action()
            if isinstance(node, str):
                self.fail(f"unexpected {{{{{node}}}}}")
            body.append(node)
        self.add_template(self.name, tuple(body))
        return self.templates

    def peek_after_left(self) -> str:
        index = self.index + 1
        while self.tokens[index].kind == "space":
            index += 1
        return self.tokens[index].kind

    def add_template(self, name: str, body: Body) -> None:
        has_content = any(not isinstance(node, TextNode) or node.text.strip() for node in body)
        existing = self.templates.get(name, ())
        if has_content and any(not isinstance(node, TextNode) or node.text.strip() for node in existing):
            self.fail(f'template: multiple definition of template "{name}"')
        if has_content or name not in self.templates:
            self.templates[name] = body

    def parse_define(self) -> None:
        self.next()
        self.next_non_space()
        name = self.parse_string_name("define clause")
        self.expect("right", "define clause")
        self.parse_definition(name, "define clause")

    def parse_definition(self, name: str, context: str) -> None:
        saved_variables, self.variables = self.variables, ["$"]
        saved_loop_depth, self.loop_depth = self.loop_depth, 0
        body, end = self.parse_items()
        if end != "end":
            self.fail(f"unexpected {{{{{end}}}}} in {context}")
        self.variables, self.loop_depth = saved_variables, saved_loop_depth
        self.add_template(name, body)

    def parse_string_name(self, context: str) -> str:
        token = self.next_non_space()
        if token.kind not in ("string", "raw string"):
            self.fail_unexpected(token, context)
        return self.unquote_token(token)

    def parse_items(self) -> tuple[Body, str]:
        """Returns the nodes up to `else` or `end`, and that keyword; does not read the token after `else`."""
        self.enter_nested()
        body: list[Node] = []
        while self.peek().kind != "EOF":
            node = self.parse_text_or_action()
            if isinstance(node, str):
                self.depth -= 1
                return tuple(body), node
            body.append(node)
        raise self.make_error("unexpected EOF", self.peek().line)

    def enter_nested(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"nested more than {MAX_DEPTH} deep")

    def parse_text_or_action(self) -> Node | Literal["else", "end"]:
        token = self.next_non_space()
        if token.kind == "text":
            return TextNode(token.position, token.text)
        if token.kind != "left":
            self.fail_unexpected(token, "input")
        return self.parse_action()

    def parse_action(self) -> Node | Literal["else", "end"]:
        token = self.next_non_space()
        if token.kind in ("if", "with", "range"):
            return self.parse_branch(token, cast(Literal["if", "with", "range"], token.kind))
        if token.kind == "else":
            if self.peek_non_space().kind not in ("if", "with"):
                self.expect("right", "else")
            return "else"
        if token.kind == "end":
            self.expect("right", "end")
            return "end"
        if token.kind in ("break", "continue"):
            return self.parse_jump(token, cast(Literal["break", "continue"], token.kind))
        if token.kind == "template":
            return self.parse_template_call()
        if token.kind == "block":
            return self.parse_block(token)
        if token.kind == "define":
            self.fail_unexpected(token, "command")
        self.index -= 1
        position = self.peek().position
        return ActionNode(position, self.parse_pipeline("command", "right"))

    def parse_jump(self, token: Token, kind: Literal["break", "continue"]) -> Jump:
        if self.next_non_space().kind != "right":
            self.fail_unexpected(self.tokens[self.index - 1], f"{{{{{kind}}}}}")
        if not self.loop_depth:
            self.fail(f"{{{{{kind}}}}} outside {{{{range}}}}")
        return Jump(token.position, kind)

    def parse_branch(self, token: Token, kind: Literal["if", "with", "range"]) -> Branch:
        mark = len(self.variables)
        pipe = self.parse_pipeline(kind, "right")
        self.loop_depth += kind == "range"
        body, end = self.parse_items()
        self.loop_depth -= kind == "range"
        else_body = self.parse_else(kind) if end == "else" else ()
        del self.variables[mark:]
        return Branch(token.position, kind, pipe, body, else_body)

    def parse_else(self, kind: str) -> Body:
        else_token = self.peek()
        if else_token.kind in ("if", "with") and else_token.kind == kind:
            self.enter_nested()
            self.next()
            nested = self.parse_branch(else_token, cast(Literal["if", "with"], kind))
            self.depth -= 1
            return (nested,)
        if else_token.kind in ("if", "with"):
            self.fail_unexpected(else_token, "else")
        body, end = self.parse_items()
        if end != "end":
            self.fail("expected end; found {{else}}")
        return body

    def parse_template_call(self) -> TemplateCall:
        position = self.peek_non_space().position
        name = self.parse_string_name("template clause")
        if self.peek_non_space().kind == "right":
            self.next()
            return TemplateCall(position, name, None)
        return TemplateCall(position, name, self.parse_pipeline("template clause", "right"))

    def parse_block(self, token: Token) -> TemplateCall:
        name = self.parse_string_name("block clause")
        pipe = self.parse_pipeline("block clause", "right")
        self.parse_definition(name, "block clause")
        return TemplateCall(token.position, name, pipe)

    # -- pipelines

    def parse_pipeline(self, context: str, end: str) -> Pipe:
        first = self.peek_non_space()
        variables, is_assign = self.parse_declarations(context)
        commands: list[Command] = []
        while True:
            token = self.next_non_space()
            if token.kind == end:
                break
            if token.kind in ("pipe", "EOF", "right", "right paren", "declare", "assign", "char", *KEYWORDS - {"nil"}):
                self.fail_unexpected(token, context)
            self.index -= 1
            commands.append(self.parse_command())
        self.check_pipeline(commands, context)
        if variables and not is_assign:
            self.variables.extend(variables)
            if len(self.variables) > MAX_VARIABLES:
                self.fail(f"more than {MAX_VARIABLES} variables")
        return Pipe(first.position, first.line, variables, is_assign, tuple(commands))

    def check_pipeline(self, commands: list[Command], context: str) -> None:
        if not commands:
            self.fail(f"missing value for {context}")
        for stage, command in enumerate(commands[1:], start=2):
            if isinstance(command.args[0], Constant | Dot | Nil):
                self.fail(f"non executable command in pipeline stage {stage}")

    def parse_declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        names: list[str] = []
        start = self.index
        while self.peek_non_space().kind == "variable":
            variable = self.next()
            following = self.peek_non_space()
            if following.kind in ("declare", "assign"):
                self.next()
                if following.kind == "assign":
                    self.check_declared(variable)
                return (*names, variable.text), following.kind == "assign"
            if following.kind != "char" or context != "range" or names:
                if following.kind == "char":
                    self.fail(f"too many declarations in {context}")
                break
            self.next()
            names.append(variable.text)
        self.index = start
        return (), False

    def check_declared(self, variable: Token) -> None:
        if variable.text not in self.variables:
            self.fail(f'undefined variable "{variable.text}"', variable.line)

    def parse_command(self) -> Command:
        position = self.peek_non_space().position
        args: list[Operand] = []
        while True:
            self.peek_non_space()
            operand = self.parse_operand()
            if operand is not None:
                args.append(operand)
            token = self.next()
            if token.kind == "space":
                continue
            if token.kind in ("right", "right paren"):
                self.index -= 1
            elif token.kind != "pipe":
                self.fail_unexpected(token, "operand")
            break
        if not args:
            self.fail("empty command")
        return Command(position, tuple(args))

    def parse_operand(self) -> Operand | None:
        node = self.parse_term()
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
        self.infer_kind(chain)
        return chain

    def infer_kind(self, node: Operand) -> str:
        """Returns `time`, `duration` or an empty text for an unknown type; fails for a method that the type lacks."""
        if isinstance(node, Pipe):
            return self.infer_kind(node.commands[-1].args[0])
        if isinstance(node, Identifier):
            return {"toTime": "time", "toDuration": "duration"}.get(node.name, "")
        if not isinstance(node, Chain):
            return ""
        kind = self.infer_kind(node.node)
        for name in node.names:
            if kind and name not in METHODS_BY_KIND[kind]:
                self.fail(f"a {kind} has no method {name} here; it has {', '.join(METHODS_BY_KIND[kind])}")
            kind = METHODS_BY_KIND[kind][name].result_kind if kind else ""
        return kind

    def parse_term(self) -> Operand | None:
        token = self.next_non_space()
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
            self.check_declared(token)
            return Variable(position, text)
        if kind == "field":
            return Field(position, (text[1:],))
        if kind == "left paren":
            return self.parse_parenthesis()
        if kind in ("bool", "number", "character", "string", "raw string"):
            return Constant(position, text, self.parse_constant(token))
        self.index -= kind != "EOF"
        return None

    def parse_parenthesis(self) -> Pipe:
        self.enter_nested()
        pipe = self.parse_pipeline("parenthesized pipeline", "right paren")
        self.depth -= 1
        return pipe

    def parse_constant(self, token: Token) -> bool | int | float | str:
        if token.kind == "bool":
            return token.text == "true"
        if token.kind == "number":
            return self.parse_number(token)
        value = self.unquote_token(token)
        if token.kind != "character":
            return value
        if len(value) != 1:
            self.fail(f"malformed character constant: {token.text}", token.line)
        return ord(value)

    def unquote_token(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueError:
            self.fail("invalid syntax", token.line)

    def parse_number(self, token: Token) -> int | float:
        try:
            return parse_number(token.text)
        except ValueError as error:
            self.fail(str(error), token.line)
