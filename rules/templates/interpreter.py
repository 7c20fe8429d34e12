"""Runs a parsed Go template: https://pkg.go.dev/text/template, src/text/template/exec.go and its error texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn, cast

from rules.templates.budget import LONGEST, STEP
from rules.templates.builtins import truth
from rules.templates.functions import Function, Surroundings, functions
from rules.templates.lexer import TemplateError
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
from rules.templates.times import Duration, Time
from rules.templates.values import Named, QueryResult, QuerySample, Record, Strings, shown, type_name

DEEPEST = 50  # templates calling templates

_ABSENT = object()
_TYPES: dict[str, type] = {
    "string": str,
    "int": int,
    "sample": QuerySample,
    "queryResult": QueryResult,
    "duration": Duration,
    "time": Time,
}
_TYPE_NAMES = {
    "sample": "*template.sample",
    "queryResult": "template.queryResult",
    "duration": "time.Duration",
    "time": "time.Time",
}


class _Leave(Exception):  # noqa: N818 - it is a jump, not an error
    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Interpreter:
    """One expansion of one text; use it once."""

    def __init__(self, name: str, text: str, bodies: Mapping[str, Body], around: Surroundings) -> None:
        self.name = name
        self.running = name
        self.text = text
        self.bodies = bodies
        self.functions: dict[str, Function] = functions(around)
        self.out: list[str] = []
        self.signs = 0
        self.budget = around.budget
        self.depth = 0
        self.variables: list[tuple[str, object]] = []

    def run(self, data: object) -> str:
        """The whole text; raises TemplateError."""
        self.budget.begin()
        self.variables = [("$", data)]
        self.walk(self.bodies[self.name], data)
        return "".join(self.out)

    def fail(self, node: object, message: str) -> NoReturn:
        raise self.error(node, message)

    def error(self, node: object, message: str) -> TemplateError:
        position = cast(Dot, node).position
        before = self.text[:position]
        column = len(before[before.rfind("\n") + 1 :].encode(errors="replace"))
        where = f"{self.name}:{before.count(chr(10)) + 1}:{column}"
        return TemplateError(f'template: {where}: executing "{self.running}" at <{node}>: {message}')

    def write(self, text: str) -> None:
        self.signs += len(text)
        if self.signs > LONGEST:
            raise TemplateError(f"template {self.name} writes more than {LONGEST} characters")
        self.budget.take(text)
        self.out.append(text)

    # -- nodes

    def walk(self, body: Body, dot: object) -> None:
        for node in body:
            self.budget.spend(STEP)
            self.node(node, dot)

    def node(self, node: Node, dot: object) -> None:
        if isinstance(node, Text):
            self.write(node.text)
        elif isinstance(node, Action):
            value = self.pipe(node.pipe, dot)
            if not node.pipe.declares:
                self.write("<no value>" if value is None else shown(value))
        elif isinstance(node, Jump):
            raise _Leave(node.kind)
        elif isinstance(node, Invoke):
            self.invoke(node, dot)
        elif node.kind == "range":
            self.loop(node, dot)
        else:
            self.branch(node, dot)

    def branch(self, node: Branch, dot: object) -> None:
        mark = len(self.variables)
        value = self.pipe(node.pipe, dot)
        inner = value if node.kind == "with" else dot
        if truth(value):
            self.walk(node.body, inner)
        else:
            self.walk(node.otherwise, dot)
        del self.variables[mark:]

    def loop(self, node: Branch, dot: object) -> None:
        outer = len(self.variables)
        value = self.pipe(node.pipe, dot)
        mark = len(self.variables)
        empty = True
        for key, element in self.elements(node, value):
            self.budget.spend(STEP)
            empty = False
            self.bind(node.pipe, key, element)
            try:
                self.walk(node.body, element)
            except _Leave as leave:
                if leave.kind == "break":
                    break
            finally:
                del self.variables[mark:]
        if empty:
            self.walk(node.otherwise, dot)
        del self.variables[outer:]

    def bind(self, pipe: Pipe, key: object, element: object) -> None:
        values = (element,) if len(pipe.declares) == 1 else (key, element)
        for name, value in zip(pipe.declares, values, strict=False):
            self.assign(name, value)

    def elements(self, node: Branch, value: object) -> Iterable[tuple[object, object]]:
        if value is None:
            return ()
        if isinstance(value, list):
            return enumerate(value)
        if isinstance(value, Mapping):
            self.budget.spend(STEP * len(value))
            return ((key, value[key]) for key in sorted(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return ((index, index) for index in range(value))
        raise self.error(node.pipe, f"range can't iterate over {shown(value)}")

    def invoke(self, node: Invoke, dot: object) -> None:
        if node.name not in self.bodies:
            self.fail(node, f'template "{node.name}" not defined')
        if self.depth >= DEEPEST:
            self.fail(node, f"exceeded maximum template depth ({DEEPEST})")
        data = self.pipe(node.pipe, dot) if node.pipe else None
        kept = self.variables, self.running
        self.variables, self.running = [("$", data)], node.name
        self.depth += 1
        self.walk(self.bodies[node.name], data)
        self.depth -= 1
        self.variables, self.running = kept

    # -- pipelines

    def pipe(self, pipe: Pipe, dot: object) -> object:
        value: object = _ABSENT
        for command in pipe.commands:
            value = self.command(command, dot, value)
        if value is _ABSENT:
            value = None
        for name in pipe.declares:
            if pipe.assigns:
                self.assign(name, value)
            else:
                self.variables.append((name, value))
        return value

    def assign(self, name: str, value: object) -> None:
        for index in range(len(self.variables) - 1, -1, -1):
            if self.variables[index][0] == name:
                self.variables[index] = (name, value)
                return

    def command(self, command: Command, dot: object, final: object) -> object:
        first = command.args[0]
        if isinstance(first, Identifier):
            return self.function(first, command, command.args, dot, final)
        if isinstance(first, Field | Variable | Chain):
            return self.fielded(first, dot, command.args, final)
        if len(command.args) > 1 or final is not _ABSENT:
            self.fail(first, f"can't give argument to non-function {first}")
        if isinstance(first, Nil):
            self.fail(first, "nil is not a command")
        return self.operand(first, dot)

    def operand(self, node: Operand, dot: object) -> object:
        if isinstance(node, Dot):
            return dot
        if isinstance(node, Constant):
            return node.value
        if isinstance(node, Pipe):
            return self.pipe(node, dot)
        if isinstance(node, Identifier):
            return self.function(node, node, (node,), dot, _ABSENT)
        if isinstance(node, Nil):
            return None
        return self.fielded(node, dot)

    def fielded(
        self, node: Field | Variable | Chain, dot: object, args: tuple[Operand, ...] = (), final: object = _ABSENT
    ) -> object:
        if isinstance(node, Field):
            value = dot
        elif isinstance(node, Variable):
            value = next(value for name, value in reversed(self.variables) if name == node.name)
            if not node.names and (len(args) > 1 or final is not _ABSENT):
                self.fail(node, f"can't give argument to non-function {node}")
        else:
            if isinstance(node.node, Nil):
                self.fail(node, f"indirection through explicit nil in {node}")
            value = self.operand(node.node, dot)
        where = _last(node) if isinstance(node, Chain) else node
        for name in node.names[:-1]:
            value = self.field(where, value, name, dot)
        return self.field(where, value, node.names[-1], dot, args, final) if node.names else value

    def field(
        self,
        node: Operand,
        value: object,
        name: str,
        dot: object,
        args: tuple[Operand, ...] = (),
        final: object = _ABSENT,
    ) -> object:
        if isinstance(value, Record | Named) and (method := value.methods.get(name)) is not None:
            self.budget.spend(STEP)
            values = self.arguments(node, name, (method.parameters, False), args, dot, final)
            return self.called(node, name, method.call, [value, *values])
        given = len(args) > 1 or final is not _ABSENT
        if isinstance(value, Mapping):
            if given:
                self.fail(node, f"{name} is not a method but has arguments")
            return value.get(name, "" if isinstance(value, Strings) else None)
        if isinstance(value, Record) and name in (fields := value.fields()):
            if given:
                self.fail(node, f"{name} has arguments but cannot be invoked as function")
            return fields[name]
        if value is None:
            self.fail(node, f"nil data; no entry for key {name!r}".replace("'", '"'))
        raise self.error(node, f"can't evaluate field {name} in type {type_name(value)}")

    # -- functions

    def function(
        self, node: Identifier, command: Operand | Command, args: tuple[Operand, ...], dot: object, final: object
    ) -> object:
        self.budget.spend(STEP * len(args))
        if node.name in ("and", "or"):
            return self.short_circuit(node, args[1:], dot, final)
        call, parameters, repeats = self.functions[node.name]
        values = self.arguments(node, node.name, (parameters, repeats), args, dot, final)
        return self.called(command, node.name, call, values)

    def arguments(
        self,
        node: Operand,
        name: str,
        signature: tuple[tuple[str, ...], bool],
        args: tuple[Operand, ...],
        dot: object,
        final: object,
    ) -> list[object]:
        """The values for a function's parameters; the first of `args` is the function itself."""
        parameters, repeats = signature
        count = len(args[1:]) + (final is not _ABSENT)
        self.counted(node, name, len(parameters), repeats, count)
        values = [
            self.argument(parameters[min(index, len(parameters) - 1)], arg, dot) for index, arg in enumerate(args[1:])
        ]
        if final is not _ABSENT:
            values.append(self.fitting(parameters[min(count, len(parameters)) - 1], args[-1], final))
        return values

    def called(self, node: object, name: str, call: Callable[..., object], values: Sequence[object]) -> object:
        """What a function or method gives; what it is given and gives is charged."""
        try:
            for value in values:
                self.budget.take(value)
            result = call(*values)
            self.budget.take(result)
        except TemplateError as error:
            raise self.error(node, f"error calling {name}: {error}") from None
        return result

    def counted(self, node: Operand, name: str, wanted: int, repeats: bool, count: int) -> None:
        if repeats and count < wanted - 1:
            self.fail(node, f"wrong number of args for {name}: want at least {wanted - 1} got {count}")
        if not repeats and count != wanted:
            self.fail(node, f"wrong number of args for {name}: want {wanted} got {count}")

    def short_circuit(self, node: Identifier, args: tuple[Operand, ...], dot: object, final: object) -> object:
        if not args and final is _ABSENT:
            self.fail(node, f"wrong number of args for {node.name}: want at least 1 got 0")
        value: object = None
        for arg in args:
            value = self.argument("any", arg, dot)
            if truth(value) == (node.name == "or"):
                return value
        return value if final is _ABSENT else final

    def argument(self, kind: str, node: Operand, dot: object) -> object:
        if isinstance(node, Constant) and kind != "any":
            return self.constant(kind, node)
        if isinstance(node, Nil) and kind in ("string", "int", "duration", "time"):
            self.fail(node, f"cannot assign nil to {_TYPE_NAMES.get(kind, kind)}")
        return self.fitting(kind, node, self.operand(node, dot))

    def constant(self, kind: str, node: Constant) -> object:
        value = node.value
        if kind == "string":
            return value if isinstance(value, str) else self.fail(node, f"expected string; found {node}")
        if kind not in ("int", "duration"):
            self.fail(node, f"can't handle {node} for arg of type {_TYPE_NAMES[kind]}")
        if isinstance(value, bool | str) or value != int(value):
            self.fail(node, f"expected integer; found {node}")
        return Duration(int(value)) if kind == "duration" else int(value)

    def fitting(self, kind: str, node: Operand, value: object) -> object:
        if isinstance(value, _TYPES.get(kind, object)):
            return value
        name = _TYPE_NAMES.get(kind, kind)
        if value is None:
            self.fail(node, f"invalid value; expected {name}")
        raise self.error(node, f"wrong type for value; expected {name}; got {type_name(value)}")


def _last(node: Operand) -> Operand:
    """Where Go is when it looks for a field: after a parenthesis still at what it met last inside."""
    while isinstance(node, Chain | Pipe):
        node = node.node if isinstance(node, Chain) else node.commands[-1].args[-1]
    return node
