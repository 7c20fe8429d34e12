"""The syntax tree of a Go template; `str()` of a node is its form in Go's error messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TextNode:
    position: int
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    position: int

    def __str__(self) -> str:
        return "."


@dataclass(frozen=True, slots=True)
class Nil:
    position: int

    def __str__(self) -> str:
        return "nil"


@dataclass(frozen=True, slots=True)
class Constant:
    """A bool, number or string literal; `source` is its text in the template."""

    position: int
    source: str
    value: bool | int | float | str

    def __str__(self) -> str:
        return self.source


@dataclass(frozen=True, slots=True)
class Field:
    position: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join("." + name for name in self.names)


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name` and the fields after it; `name` has its `$`."""

    position: int
    name: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ".".join((self.name, *self.names))


@dataclass(frozen=True, slots=True)
class Identifier:
    position: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Chain:
    """Fields of the value of a parenthesis: `(first (query "m")).Value`."""

    position: int
    node: Operand
    names: tuple[str, ...]

    def __str__(self) -> str:
        node = f"({self.node})" if isinstance(self.node, Pipe) else str(self.node)
        return ".".join((node, *self.names))


@dataclass(frozen=True, slots=True)
class Command:
    position: int
    args: tuple[Operand, ...]

    def __str__(self) -> str:
        return " ".join(f"({arg})" if isinstance(arg, Pipe) else str(arg) for arg in self.args)


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands, each with the previous result as last argument; `is_assign` is true for `=`, false for `:=`."""

    position: int
    line: int
    variables: tuple[str, ...]
    is_assign: bool
    commands: tuple[Command, ...]

    def __str__(self) -> str:
        prefix = f"{', '.join(self.variables)} {'=' if self.is_assign else ':='} " if self.variables else ""
        return prefix + " | ".join(map(str, self.commands))


@dataclass(frozen=True, slots=True)
class ActionNode:
    position: int
    pipe: Pipe

    def __str__(self) -> str:
        return f"{{{{{self.pipe}}}}}"


@dataclass(frozen=True, slots=True)
class Branch:
    position: int
    kind: Literal["if", "with", "range"]
    pipe: Pipe
    body: Body
    else_body: Body


@dataclass(frozen=True, slots=True)
class Jump:
    position: int
    kind: Literal["break", "continue"]


@dataclass(frozen=True, slots=True)
class TemplateCall:
    """`{{template "name" pipeline}}`."""

    position: int
    name: str
    pipe: Pipe | None

    def __str__(self) -> str:
        quoted_name = '"' + self.name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return f"{{{{template {quoted_name}{f' {self.pipe}' if self.pipe else ''}}}}}"


Operand = Dot | Nil | Constant | Field | Variable | Identifier | Chain | Pipe
Node = TextNode | ActionNode | Branch | Jump | TemplateCall
Body = tuple[Node, ...]
