"""Describes the keys of a settings type: type, default, bounds, and the docstring below each in the source."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

TYPE_NAMES = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    type(None): "null",
    Any: "anything",
}


class DocumentedField(NamedTuple):
    """One key; `section` is the type of a subsection, or of the items of a list of subsections."""

    name: str
    kind: str
    default: str
    description: str
    section: type | None


def list_fields(kind: type) -> Iterator[DocumentedField]:
    """Yields every key of a section in source order; a key without docstring has that of its subsection, if any."""
    hints = typing.get_type_hints(kind, include_extras=True)
    descriptions = _read_descriptions(kind)
    for field in msgspec.structs.fields(kind):
        hint = hints[field.name]
        section = _find_section(hint)
        description = descriptions.get(field.name) or (section.__doc__ if section else "") or ""
        yield DocumentedField(
            field.name, _describe_type(hint), _describe_default(field, hint), " ".join(description.split()), section
        )


def _read_descriptions(kind: type) -> dict[str, str]:
    """Returns the docstring below each field."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    descriptions = {}
    for field, docstring in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant)):
            continue
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            descriptions[field.target.id] = str(docstring.value.value)
    return descriptions


def _find_section(hint: Any) -> type | None:
    for part in (hint, *typing.get_args(hint)):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return part
    return None


def _describe_type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _describe_annotated(arguments)
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_describe_type, arguments))
    if origin is tuple:
        is_variadic = arguments[-1] is Ellipsis
        return (
            f"list of {_describe_type(arguments[0])}"
            if is_variadic
            else f"list of {len(arguments)}: {_describe_type(arguments[0])}"
        )
    if origin is dict:
        return f"mapping of text to {_describe_type(arguments[1])}"
    return "section" if _find_section(hint) else TYPE_NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _describe_annotated(arguments: tuple[Any, ...]) -> str:
    base_type, *extras = arguments
    if "duration" in extras:
        return "duration"
    bounds = [extra for extra in extras if isinstance(extra, msgspec.Meta)]
    limits = [f"at least {each.ge}" for each in bounds if each.ge is not None]
    limits += [f"at most {each.le}" for each in bounds if each.le is not None]
    return ", ".join([_describe_type(base_type), *limits])


def _describe_default(field: msgspec.structs.FieldInfo, hint: Any) -> str:
    if field.required:
        return "**required**"
    if field.default_factory is not msgspec.NODEFAULT:
        return "none" if not field.default_factory() else "see below"
    value = field.default
    if isinstance(value, msgspec.Struct):
        return "see below"
    if isinstance(value, float) and "duration" in str(hint):
        return f"`{_format_duration(value)}`"
    if value in ((), {}):
        return "none"
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    names: dict[Any, str] = {None: "null", True: "true", False: "false"}
    return f"`{names[value] if isinstance(value, bool | None) else value}`"


def _format_duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "m"), (1, "s")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds * 1000:g}ms"
