"""
The structure of the code, read from its imports: boxes, floors, arrows, arrows up and circles of a folder.

`make house` prints it. A box is what a folder holds directly: a file, or a sub-folder with all that is below it. An
arrow is an import from one box to another, type-only imports and imports inside functions included.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

HOUSE = Path(__file__).parents[1]
FOLDERS = ("agent", "rules", "collectors", "engine", "hand")
Node = TypeVar("Node", str, Path)


class Structure(NamedTuple):
    """Numbers of one folder: how it is cut into boxes, and how these depend on each other."""

    boxes: int
    files: int
    largest_share: float  # of the folder's lines, the share of its largest box
    floors: int
    arrows: int
    arrows_up: int
    file_circles: int


@functools.cache
def parse_module(path: Path) -> ast.Module:
    """Returns the syntax tree of a file, which is parsed once for all tests of a process."""
    return ast.parse(path.read_text(encoding="utf-8"))


def read_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the line and dotted name of every import of a file, those inside functions too."""
    package = path.relative_to(HOUSE).parent.parts
    for node in ast.walk(parse_module(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (above, node.module or "")))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def list_modules(folder: str) -> list[Path]:
    """Returns the Python files below a folder of the house."""
    return sorted((HOUSE / folder).rglob("*.py"))


def find_file(name: str) -> Path | None:
    """Returns the file that a dotted name is, or is a name of; None outside the house."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        base = HOUSE.joinpath(*parts[:count])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def read_file_graph(folder: str) -> dict[Path, set[Path]]:
    """Returns, for each file below a folder, the files below the same folder that it imports."""
    files = list_modules(folder)
    graph: dict[Path, set[Path]] = {path: set() for path in files}
    for path in files:
        targets = (find_file(name) for _, name in read_imports(path))
        graph[path] = {target for target in targets if target in graph and target != path}
    return graph


def find_box(path: Path, folder: str) -> str:
    """Returns the name of the box that a file of a folder is in."""
    return path.relative_to(HOUSE / folder).parts[0].removesuffix(".py")


def read_box_graph(folder: str) -> dict[str, set[str]]:
    """Returns the arrows between the boxes of a folder; its own `__init__.py` is a box."""
    graph: dict[str, set[str]] = defaultdict(set)
    for path, targets in read_file_graph(folder).items():
        box = find_box(path, folder)
        graph[box] |= {find_box(target, folder) for target in targets} - {box}
    return dict(graph)


def find_circles(graph: Mapping[Node, Collection[Node]]) -> list[set[Node]]:
    """Returns the groups of two or more nodes that reach each other (Tarjan's strongly connected components)."""
    order: dict[Node, int] = {}
    low: dict[Node, int] = {}
    stack: list[Node] = []
    circles: list[set[Node]] = []

    def visit(node: Node) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            members = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(members) > 1:
                circles.append(members)

    for node in graph:
        if node not in order:
            visit(node)
    return circles


def count_floors(graph: Mapping[str, Collection[str]]) -> int:
    """Returns the length of the longest chain of imports between boxes; the boxes of one circle are one floor."""
    circle_of = {box: frozenset(circle) for circle in find_circles(graph) for box in circle}
    heights: dict[frozenset[str], int] = {}

    def measure(box: str) -> int:
        circle = circle_of.get(box, frozenset({box}))
        if circle not in heights:
            below = {target for member in circle for target in graph.get(member, ())} - circle
            heights[circle] = 1 + max(map(measure, below), default=0)
        return heights[circle]

    return max(map(measure, graph), default=0)


def count_arrows_up(graph: Mapping[str, Collection[str]]) -> int:
    """Returns how many arrows close a circle of boxes, as a depth-first walk in order of names meets them."""
    state: dict[str, bool] = {}  # False while a box is being walked, True when all below it has been
    count = 0

    def visit(box: str) -> None:
        nonlocal count
        state[box] = False
        for target in sorted(graph.get(box, ())):
            if target not in state:
                visit(target)
            elif not state[target]:
                count += 1
        state[box] = True

    for box in sorted(graph):
        if box not in state:
            visit(box)
    return count


def measure_structure(folder: str) -> Structure:
    """Returns the numbers of a folder of the house."""
    files, graph = list_modules(folder), read_box_graph(folder)
    lines = Counter[str]()
    for path in files:
        lines[find_box(path, folder)] += path.read_text(encoding="utf-8").count("\n")
    return Structure(
        boxes=len(graph),
        files=len(files),
        largest_share=max(lines.values()) / sum(lines.values()),
        floors=count_floors(graph),
        arrows=sum(map(len, graph.values())),
        arrows_up=count_arrows_up(graph),
        file_circles=len(find_circles(read_file_graph(folder))),
    )


def format_report() -> str:
    """Returns the numbers of every folder, and the files of each box of `agent/`, as text for a terminal."""
    rows = ["folder      files  boxes  largest  floors  arrows  arrows up  circles of files"]
    for folder in FOLDERS:
        numbers = measure_structure(folder)
        rows.append(
            f"{folder:10} {numbers.files:6} {numbers.boxes:6} {numbers.largest_share:8.0%} {numbers.floors:7} "
            f"{numbers.arrows:7} {numbers.arrows_up:10} {numbers.file_circles:17}"
        )
    for folder in FOLDERS:
        files = Counter(find_box(path, folder) for path in list_modules(folder))
        rooms = ", ".join(f"{box} {count}" for box, count in sorted(files.items()) if count > 1)
        rows.append(f"{folder}: {rooms}; {sum(count == 1 for count in files.values())} files beside them")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(f"{format_report()}\n")
