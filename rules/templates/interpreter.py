"""Executes a parsed template as Go's src/text/template/exec.go, with its error texts: https://pkg.go.dev/text/template."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn, cast

from rules.templates.budget import MAX_TEXT_LENGTH, STEP_COST
from rules.templates.builtins import is_true
from rules.templates.functions import ExpansionContext, Function, build_functions
from rules.templates.lexer import TemplateError
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
from rules.templates.times import Duration, Time
from rules.templates.values import (
    NamedInt,
    QueryResult,
    QuerySample,
    StringMap,
    TemplateRecord,
    format_value,
    get_type_name,
)

MAX_DEPTH = 50  # nested template calls

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


class _LoopExit(Exception):  # noqa: N818 - it is a jump, not an error
    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Interpreter:
    """Expands one text, once."""

    def __init__(self, name: str, text: str, bodies: Mapping[str, Body], context: ExpansionContext) -> None:
        self.name = name
        self.current_template = name
        self.text = text
        self.bodies = bodies
        self.functions: dict[str, Function] = build_functions(context)
        self.out: list[str] = []
        self.written_length = 0
        self.budget = context.budget
        self.depth = 0
        self.variables: list[tuple[str, object]] = []

    def run(self, data: object) -> str:
        """Returns the expanded text; raises TemplateError."""
        self.budget.begin_expansion()
        self.variables = [("$", data)]
        self.walk_body(self.bodies[self.name], data)
        return "".join(self.out)

    def fail(self, node: object, message: str) -> NoReturn:
        raise self.make_error(node, message)

    def make_error(self, node: object, message: str) -> TemplateError:
        position = cast(Dot, node).position
        before = self.text[:position]
        column = len(before[before.rfind("\n") + 1 :].encode(errors="replace"))
        location = f"{self.name}:{before.count(chr(10)) + 1}:{column}"
        return TemplateError(f'template: {location}: executing "{self.current_template}" at <{node}>: {message}')

    def write(self, text: str) -> None:
        self.written_length += len(text)
        if self.written_length > MAX_TEXT_LENGTH:
            raise TemplateError(f"template {self.name} writes more than {MAX_TEXT_LENGTH} characters")
        self.budget.charge_value(text)
        self.out.append(text)

    # -- nodes

    def walk_body(self, body: Body, dot: object) -> None:
        for node in body:
            self.budget.spend(STEP_COST)
            self.walk_node(node, dot)

    def walk_node(self, node: Node, dot: object) -> None:
        if isinstance(node, TextNode):
            self.write(node.text)
        elif isinstance(node, ActionNode):
            value = self.eval_pipeline(node.pipe, dot)
            if not node.pipe.variables:
                self.write("<no value>" if value is None else format_value(value))
        elif isinstance(node, Jump):
            raise _LoopExit(node.kind)
        elif isinstance(node, TemplateCall):
            self.walk_template(node, dot)
        elif node.kind == "range":
            self.walk_range(node, dot)
        else:
            self.walk_if_or_with(node, dot)

    def walk_if_or_with(self, node: Branch, dot: object) -> None:
        mark = len(self.variables)
        value = self.eval_pipeline(node.pipe, dot)
        inner_dot = value if node.kind == "with" else dot
        if is_true(value):
            self.walk_body(node.body, inner_dot)
        else:
            self.walk_body(node.else_body, dot)
        del self.variables[mark:]

    def walk_range(self, node: Branch, dot: object) -> None:
        outer = len(self.variables)
        value = self.eval_pipeline(node.pipe, dot)
        mark = len(self.variables)
        empty = True
        for key, element in self.list_elements(node, value):
            self.budget.spend(STEP_COST)
            empty = False
            self.set_loop_variables(node.pipe, key, element)
            try:
                self.walk_body(node.body, element)
            except _LoopExit as exit_signal:
                if exit_signal.kind == "break":
                    break
            finally:
                del self.variables[mark:]
        if empty:
            self.walk_body(node.else_body, dot)
        del self.variables[outer:]

    def set_loop_variables(self, pipe: Pipe, key: object, element: object) -> None:
        values = (element,) if len(pipe.variables) == 1 else (key, element)
        for name, value in zip(pipe.variables, values, strict=False):
            self.set_variable(name, value)

    def list_elements(self, node: Branch, value: object) -> Iterable[tuple[object, object]]:
        if value is None:
            return ()
        if isinstance(value, list):
            return enumerate(value)
        if isinstance(value, Mapping):
            self.budget.spend(STEP_COST * len(value))
            return ((key, value[key]) for key in sorted(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return ((index, index) for index in range(value))
        raise self.make_error(node.pipe, f"range can't iterate over {format_value(value)}")

    def walk_template(self, node: TemplateCall, dot: object) -> None:
        if node.name not in self.bodies:
            self.fail(node, f'template "{node.name}" not defined')
        if self.depth >= MAX_DEPTH:
            self.fail(node, f"exceeded maximum template depth ({MAX_DEPTH})")
        data = self.eval_pipeline(node.pipe, dot) if node.pipe else None
        saved = self.variables, self.current_template
        self.variables, self.current_template = [("$", data)], node.name
        self.depth += 1
        self.walk_body(self.bodies[node.name], data)
        self.depth -= 1
        self.variables, self.current_template = saved

    # -- pipelines

    def eval_pipeline(self, pipe: Pipe, dot: object) -> object:
        value: object = _ABSENT
        for command in pipe.commands:
            value = self.eval_command(command, dot, value)
        if value is _ABSENT:
            value = None
        for name in pipe.variables:
            if pipe.is_assign:
                self.set_variable(name, value)
            else:
                self.variables.append((name, value))
        return value

    def set_variable(self, name: str, value: object) -> None:
        for index in range(len(self.variables) - 1, -1, -1):
            if self.variables[index][0] == name:
                self.variables[index] = (name, value)
                return

    def eval_command(self, command: Command, dot: object, final: object) -> object:
        first = command.args[0]
        if isinstance(first, Identifier):
            return self.eval_function(first, command, command.args, dot, final)
        if isinstance(first, Field | Variable | Chain):
            return self.eval_field_chain(first, dot, command.args, final)
        if len(command.args) > 1 or final is not _ABSENT:
            self.fail(first, f"can't give argument to non-function {first}")
        if isinstance(first, Nil):
            self.fail(first, "nil is not a command")
        return self.eval_operand(first, dot)

    def eval_operand(self, node: Operand, dot: object) -> object:
        if isinstance(node, Dot):
            return dot
        if isinstance(node, Constant):
            return node.value
        if isinstance(node, Pipe):
            return self.eval_pipeline(node, dot)
        if isinstance(node, Identifier):
            return self.eval_function(node, node, (node,), dot, _ABSENT)
        if isinstance(node, Nil):
            return None
        return self.eval_field_chain(node, dot)

    def eval_field_chain(
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
            value = self.eval_operand(node.node, dot)
        error_node = _find_last_node(node) if isinstance(node, Chain) else node
        for name in node.names[:-1]:
            value = self.eval_field(error_node, value, name, dot)
        return self.eval_field(error_node, value, node.names[-1], dot, args, final) if node.names else value

    def eval_field(
        self,
        node: Operand,
        value: object,
        name: str,
        dot: object,
        args: tuple[Operand, ...] = (),
        final: object = _ABSENT,
    ) -> object:
        if isinstance(value, TemplateRecord | NamedInt) and (method := value.methods.get(name)) is not None:
            self.budget.spend(STEP_COST)
            values = self.eval_arguments(node, name, (method.parameters, False), args, dot, final)
            return self.call_function(node, name, method.call, [value, *values])
        has_arguments = len(args) > 1 or final is not _ABSENT
        if isinstance(value, Mapping):
            if has_arguments:
                self.fail(node, f"{name} is not a method but has arguments")
            return value.get(name, "" if isinstance(value, StringMap) else None)
        if isinstance(value, TemplateRecord) and name in (fields := value.fields()):
            if has_arguments:
                self.fail(node, f"{name} has arguments but cannot be invoked as function")
            return fields[name]
        if value is None:
            self.fail(node, f"nil data; no entry for key {name!r}".replace("'", '"'))
        raise self.make_error(node, f"can't evaluate field {name} in type {get_type_name(value)}")

    # -- functions

    def eval_function(
        self, node: Identifier, command: Operand | Command, args: tuple[Operand, ...], dot: object, final: object
    ) -> object:
        self.budget.spend(STEP_COST * len(args))
        if node.name in ("and", "or"):
            return self.eval_and_or(node, args[1:], dot, final)
        call, parameters, repeats = self.functions[node.name]
        values = self.eval_arguments(node, node.name, (parameters, repeats), args, dot, final)
        return self.call_function(command, node.name, call, values)

    def eval_arguments(
        self,
        node: Operand,
        name: str,
        signature: tuple[tuple[str, ...], bool],
        args: tuple[Operand, ...],
        dot: object,
        final: object,
    ) -> list[object]:
        """Evaluates the arguments for a function's parameters; the first of `args` is the function itself."""
        parameters, repeats = signature
        count = len(args[1:]) + (final is not _ABSENT)
        self.check_argument_count(node, name, len(parameters), repeats, count)
        values = [
            self.eval_argument(parameters[min(index, len(parameters) - 1)], arg, dot)
            for index, arg in enumerate(args[1:])
        ]
        if final is not _ABSENT:
            values.append(self.validate_type(parameters[min(count, len(parameters)) - 1], args[-1], final))
        return values

    def call_function(self, node: object, name: str, call: Callable[..., object], values: Sequence[object]) -> object:
        """Calls a function or method; charges its arguments and its result to the budget."""
        try:
            for value in values:
                self.budget.charge_value(value)
            result = call(*values)
            self.budget.charge_value(result)
        except TemplateError as error:
            raise self.make_error(node, f"error calling {name}: {error}") from None
        return result

    def check_argument_count(self, node: Operand, name: str, expected: int, repeats: bool, count: int) -> None:
        if repeats and count < expected - 1:
            self.fail(node, f"wrong number of args for {name}: want at least {expected - 1} got {count}")
        if not repeats and count != expected:
            self.fail(node, f"wrong number of args for {name}: want {expected} got {count}")

    def eval_and_or(self, node: Identifier, args: tuple[Operand, ...], dot: object, final: object) -> object:
        if not args and final is _ABSENT:
            self.fail(node, f"wrong number of args for {node.name}: want at least 1 got 0")
        value: object = None
        for arg in args:
            value = self.eval_argument("any", arg, dot)
            if is_true(value) == (node.name == "or"):
                return value
        return value if final is _ABSENT else final

    def eval_argument(self, kind: str, node: Operand, dot: object) -> object:
        if isinstance(node, Constant) and kind != "any":
            return self.eval_constant(kind, node)
        if isinstance(node, Nil) and kind in ("string", "int", "duration", "time"):
            self.fail(node, f"cannot assign nil to {_TYPE_NAMES.get(kind, kind)}")
        return self.validate_type(kind, node, self.eval_operand(node, dot))

    def eval_constant(self, kind: str, node: Constant) -> object:
        value = node.value
        if kind == "string":
            return value if isinstance(value, str) else self.fail(node, f"expected string; found {node}")
        if kind not in ("int", "duration"):
            self.fail(node, f"can't handle {node} for arg of type {_TYPE_NAMES[kind]}")
        if isinstance(value, bool | str) or value != int(value):
            self.fail(node, f"expected integer; found {node}")
        return Duration(int(value)) if kind == "duration" else int(value)

    def validate_type(self, kind: str, node: Operand, value: object) -> object:
        if isinstance(value, _TYPES.get(kind, object)):
            return value
        name = _TYPE_NAMES.get(kind, kind)
        if value is None:
            self.fail(node, f"invalid value; expected {name}")
        raise self.make_error(node, f"wrong type for value; expected {name}; got {get_type_name(value)}")


def _find_last_node(node: Operand) -> Operand:
    """Returns the node that Go names in a field error: after a parenthesis, the last node inside it."""
    while isinstance(node, Chain | Pipe):
        node = node.node if isinstance(node, Chain) else node.commands[-1].args[-1]
    return node
