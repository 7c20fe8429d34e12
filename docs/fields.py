"""The keys of a settings type as people read them: type, default, bounds, and the string below each in the source."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

PLAIN = {str: "text", bool: "true or false", int: "whole number", float: "number", type(None): "null", Any: "anything"}


class Field(NamedTuple):
    """One key; `inner` is the section that it holds, or that each item of its list is."""

    name: str
    kind: str
    default: str
    about: str
    inner: type | None


def fields(kind: type) -> Iterator[Field]:
    """Every key of a section, in the order of the source; one without a sentence has its section's, or none."""
    hints = typing.get_type_hints(kind, include_extras=True)
    said = _said(kind)
    for field in msgspec.structs.fields(kind):
        hint = hints[field.name]
        inner = _section(hint)
        about = said.get(field.name) or (inner.__doc__ if inner else "") or ""
        yield Field(field.name, _written(hint), _default(field, hint), " ".join(about.split()), inner)


def _said(kind: type) -> dict[str, str]:
    """The string below each field."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
            continue
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            found[field.target.id] = str(below.value.value)
    return found


def _section(hint: Any) -> type | None:
    for part in (hint, *typing.get_args(hint)):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return part
    return None


def _written(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _annotated(arguments)
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_written, arguments))
    if origin is tuple:
        many = arguments[-1] is Ellipsis
        return f"list of {_written(arguments[0])}" if many else f"list of {len(arguments)}: {_written(arguments[0])}"
    if origin is dict:
        return f"mapping of text to {_written(arguments[1])}"
    return "section" if _section(hint) else PLAIN.get(hint, getattr(hint, "__name__", str(hint)))


def _annotated(arguments: tuple[Any, ...]) -> str:
    plain, *extras = arguments
    if "duration" in extras:
        return "duration"
    bounds = [extra for extra in extras if isinstance(extra, msgspec.Meta)]
    limits = [f"at least {each.ge}" for each in bounds if each.ge is not None]
    limits += [f"at most {each.le}" for each in bounds if each.le is not None]
    return ", ".join([_written(plain), *limits])


def _default(field: msgspec.structs.FieldInfo, hint: Any) -> str:
    if field.required:
        return "**required**"
    if field.default_factory is not msgspec.NODEFAULT:
        return "none" if not field.default_factory() else "see below"
    value = field.default
    if isinstance(value, msgspec.Struct):
        return "see below"
    if isinstance(value, float) and "duration" in str(hint):
        return f"`{_duration(value)}`"
    if value in ((), {}):
        return "none"
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    names: dict[Any, str] = {None: "null", True: "true", False: "false"}
    return f"`{names[value] if isinstance(value, bool | None) else value}`"


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "m"), (1, "s")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds * 1000:g}ms"
