"""The laws of names, counted by reading the code: few vague words, verbs for functions, one word for one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure import HOUSE, list_modules, parse_module


def _split_words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


FOLDERS = ("agent", "rules", "collectors", "engine", "hand", "grafana", "docs", "bench", "tests")
# They name neither a thing nor a role: whoever meets one must look up its meaning.
VAGUE = _split_words(
    """
    told found asked shown seen held kept said says given known there whole each of one mine now own wanted made
    taken left around about sound opened written judged heard placed place look looked got thing stuff it that
    what which here meant
    """
)
MAX_VAGUE_SHARE = 0.01
# Past participles that do not end in -ed, and are no imperative as well (as `put`, `set`, `read` and `run` are).
IRREGULAR = _split_words(
    """
    told found asked shown seen held kept said given known made taken left written heard bound built begun broken
    brought caught chosen dealt done drawn driven fallen felt forgotten frozen gone grown hidden laid led learnt
    lent lost meant met paid rung risen sent shaken shot slept spoken spent spun stood stolen stuck struck sworn
    swept swung taught thought thrown torn understood woken won worn wound withdrawn burnt sought sold hung
    """
)
NOUNS_AND_VERBS = _split_words(
    """
    seed feed speed need embed exceed proceed succeed bed string ring thing ping timing encoding spring setting
    sibling ceiling heading listing warning mapping binding routing building bring swing
    """
)
# A configuration class of a plug-in is called Config by contract.
SHARED_CLASS_NAMES = frozenset({"Config"})


def find_one_line_targets(tree: ast.AST) -> set[tuple[int, int]]:
    """Returns the positions of names bound by a comprehension that fits one line."""
    kinds = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
    return {
        (name.lineno, name.col_offset)
        for node in ast.walk(tree)
        if isinstance(node, kinds) and node.end_lineno == node.lineno
        for generator in node.generators
        for name in ast.walk(generator.target)
        if isinstance(name, ast.Name)
    }


def list_bindings(tree: ast.AST) -> Iterator[tuple[str, int, bool]]:
    """Yields each name that is bound, its line, and whether a comprehension of one line binds it."""
    one_line = find_one_line_targets(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno, False
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno, (node.lineno, node.col_offset) in one_line
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno, False
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno, False


def is_vague(name: str, in_one_line: bool) -> bool:
    """True for a name of the list; `now` is the time of the tick, `each` and `one` are clear within one line."""
    word = name.strip("_")
    return word in VAGUE and word != "now" and not (in_one_line and word in ("each", "one"))


def is_participle(name: str) -> bool:
    """True for a single word that is a participle: `written`, `replaced`, `waiting`."""
    word = name.strip("_")
    if "_" in word or word in NOUNS_AND_VERBS:
        return False
    return word in IRREGULAR or bool(re.fullmatch(r"\w{2,}ed|\w{3,}ing", word))


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """True where a function is read like a value, and so may be named like one."""
    names = {ast.unparse(decorator).split("(")[0] for decorator in node.decorator_list}
    return bool(names & {"property", "cached_property", "functools.cached_property"})


def list_functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yields the functions of a file, methods and nested ones included."""
    for node in ast.walk(parse_module(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
            yield node


def describe(path: Path, line: int, name: str) -> str:
    """Returns where a name is, for a person to go there."""
    return f"{path.relative_to(HOUSE)}:{line} {name}"


def split_rooms(folder: str) -> dict[str, list[Path]]:
    """Returns the files of each room of a folder; what lies directly in the folder is one room too."""
    rooms: dict[str, list[Path]] = defaultdict(list)
    for path in list_modules(folder):
        parts = path.relative_to(HOUSE).parts
        rooms["/".join(parts[:2]) if len(parts) > 2 else folder].append(path)
    return rooms


ROOMS = {room: files for folder in FOLDERS for room, files in split_rooms(folder).items()}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_names_are_not_vague(room: str) -> None:
    """At most one binding in a hundred of a room is a word that says neither what a value is nor what it is for."""
    total, vague = 0, []
    for path in ROOMS[room]:
        for name, line, in_one_line in list_bindings(parse_module(path)):
            total += 1
            if is_vague(name, in_one_line):
                vague.append(describe(path, line, name))

    assert len(vague) <= MAX_VAGUE_SHARE * total, vague


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_functions_are_verbs(room: str) -> None:
    """No function is called by a bare participle: `write`, not `written`; properties are read like values."""
    participles = [
        describe(path, function.lineno, function.name)
        for path in ROOMS[room]
        for function in list_functions(path)
        if is_participle(function.name) and not is_property(function)
    ]

    assert participles == []


def list_classes(path: Path) -> Iterator[tuple[str, int]]:
    """Yields the name and line of each class of a file."""
    for node in parse_module(path).body:
        if isinstance(node, ast.ClassDef):
            yield node.name, node.lineno


def list_type_aliases(path: Path) -> Iterator[tuple[str, int]]:
    """Yields the name and line of each alias of a type, such as `Rows = list[Row]`."""
    for node in parse_module(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
            names = (target.id for target in node.targets if isinstance(target, ast.Name))
            yield from ((name, node.lineno) for name in names if re.fullmatch(r"_?[A-Z]+[a-z]\w*", name))


def test_a_class_name_is_one_class() -> None:
    """No class shares its name with another class or type alias, so that a search finds the one that is meant."""
    classes: dict[str, list[str]] = defaultdict(list)
    aliases: dict[str, list[str]] = defaultdict(list)
    for path in (path for folder in FOLDERS if folder != "tests" for path in list_modules(folder)):
        for name, line in list_classes(path):
            if name not in SHARED_CLASS_NAMES:
                classes[name].append(describe(path, line, name))
        for name, line in list_type_aliases(path):
            aliases[name].append(describe(path, line, name))
    shared = [places + aliases[name] for name, places in classes.items() if len(places + aliases[name]) > 1]

    assert shared == []


def test_a_moved_clock_is_a_shift() -> None:
    """`shift` is the one word for what is done when the wall clock was set; `stepped` is gone."""
    others = [
        describe(path, function.lineno, function.name)
        for folder in ("agent", "rules")
        for path in list_modules(folder)
        for function in list_functions(path)
        if re.search(r"(^|_)stepped?(_|$)", function.name)
    ]

    assert others == []
