"""The laws of the house (who may import whom, and which doors there are), held by reading the code itself."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.structure import FOLDERS, HOUSE, find_circles, list_modules, parse_module, read_box_graph, read_file_graph
from tests.structure import read_imports as imports

ROOMS = ("agent", "collectors", "rules", "engine", "hand", "grafana", "docs")
# Calls go down: agent -> rules -> collectors. Engine and hand stand apart: they are met only over a socket.
MAY_IMPORT = {
    "agent": {"agent", "rules", "collectors"},
    "rules": {"rules", "collectors"},
    "collectors": {"collectors"},
    "engine": {"engine"},
    "hand": {"hand"},
    "grafana": {"grafana"},
    "docs": {"docs", "agent", "rules", "collectors"},
}
# Inside a folder: a room, and the rooms of the same folder that it may import. Each room stands below the rooms that it
# may import, so that no arrow runs up and no two rooms import each other.
WALLS: Mapping[str, Mapping[str, str]] = {
    "agent": {
        "__init__": "",
        "runtime": "",
        "text": "",
        "storage": "runtime",
        "config": "text runtime storage",
        "pacing": "text runtime storage config",
        "recorder": "text runtime storage config",
        "actions": "pacing text runtime config",
        "alerting": "text runtime storage config",
        "engines": "text runtime storage config",
        "sampling": "text runtime storage config",
        "console": "text runtime",
        "remediation": "actions pacing alerting engines text runtime storage config",
        "placement": "sampling text runtime storage config",
        "enginebench": "sampling engines text runtime storage config",
        "selfmetrics": "remediation actions pacing alerting engines sampling text runtime config",
        "web": "remediation alerting engines console text runtime storage config",
        "tick_log": "sampling",
        "learning": "engines pacing runtime storage",
        "collector_wiring": "sampling engines config runtime",
        "configuration": "remediation sampling config text",
        "persistence": "alerting recorder",
        "loop": "tick_log persistence remediation console alerting selfmetrics sampling runtime",
        "reload": "loop collector_wiring configuration remediation alerting selfmetrics config runtime",
        "app": "reload loop learning collector_wiring configuration persistence web selfmetrics console remediation "
        "alerting engines sampling config runtime storage text",
        # `app` only for its libraries, which the sandbox must let the service execute; `remediation` for the addresses
        # that actions connect to.
        "install": "app configuration remediation alerting sampling config runtime storage text",
        "commands": "install app configuration persistence web enginebench placement console remediation alerting "
        "engines recorder sampling config runtime storage text",
        "__main__": "runtime text",
    },
    "rules": {
        "__init__": "",
        "alerts": "",
        "durations": "",
        "patterns": "",
        "matchers": "patterns",
        "numbers": "",
        "strict_yaml": "",
        "history": "matchers",
        "promql": "history matchers patterns numbers",
        "templates": "patterns durations numbers",
        "model": "promql templates",
        "alert_restore": "alerts model",
        "dependencies": "model",
        "rulefile": "dependencies model promql templates matchers numbers durations strict_yaml",
        "reach": "model durations",
        "outcome": "model promql templates history alerts",
        "state": "dependencies model history alerts",
        "evaluator": "state outcome alert_restore reach model promql history alerts",
        "unittests": "evaluator rulefile model promql templates history alerts durations strict_yaml",
    },
    "engine": {
        "__init__": "",
        "decoder": "",
        "memory": "decoder",
        "checkpoints": "decoder",
        "serving": "checkpoints memory decoder",
        "__main__": "serving checkpoints memory decoder",
    },
}
# The furniture of the collectors: who may import what beside its own room; collectors import the face and furniture.
FURNITURE = {
    "_host": "",
    "_engine": "",
    "_kernel": "_host",
    "_dimm": "_host",
    "_ipmi": "_host _dimm",
    "_process": "_host",
}
BANNED_NAMES = re.compile(r"(?:^|_)(manager|helper|utils?|common|handler|misc|base)(?:_|$)", re.IGNORECASE)


def every_module() -> list[Path]:
    return [path for room in ROOMS for path in list_modules(room)]


@functools.cache
def calls(path: Path) -> list[tuple[int, str]]:
    nodes = ast.walk(parse_module(path))
    return [(node.lineno, ast.unparse(node.func)) for node in nodes if isinstance(node, ast.Call)]


def to_name(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def test_calls_go_down() -> None:
    """No room imports one above it, and nobody imports the engine."""
    crossed = [
        f"{to_name(path)}:{line} imports {name}"
        for room in ROOMS
        for path in list_modules(room)
        for line, name in imports(path)
        if name.split(".")[0] in ROOMS and name.split(".")[0] not in MAY_IMPORT[room]
    ]

    assert crossed == []


@pytest.mark.parametrize("folder", sorted(WALLS))
def test_rooms_import_what_is_below_them(folder: str) -> None:
    """Each room imports no other room than the table allows, and every room is in the table."""
    graph, walls = read_box_graph(folder), WALLS[folder]
    crossed = [
        f"{folder}/{room} imports {folder}/{target}"
        for room, targets in graph.items()
        for target in sorted(targets - set(walls.get(room, "").split()))
    ]

    assert sorted(graph) == sorted(walls)
    assert crossed == []


@pytest.mark.parametrize("folder", sorted(WALLS))
def test_the_table_of_walls_runs_down(folder: str) -> None:
    """A room is allowed only rooms that stand above it in the table, so the table itself has no circle."""
    rooms = list(WALLS[folder])
    up = [
        f"{room}: {target}"
        for index, room in enumerate(rooms)
        for target in WALLS[folder][room].split()
        if target not in rooms[:index]
    ]

    assert up == []


def test_furniture_knows_no_collector() -> None:
    """A furniture room imports the rooms that its row allows, and neither the face nor a collector."""
    graph = read_box_graph("collectors")
    crossed = [
        f"collectors/{room} imports collectors/{target}"
        for room in (box for box in graph if box.startswith("_") and box != "__init__")
        for target in sorted(graph[room] - set(FURNITURE[room].split()))
    ]

    assert crossed == []
    assert graph["__init__"] <= set(FURNITURE)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_two_files_import_each_other(folder: str) -> None:
    """There is no circle of imports among files, those for types alone and those inside functions included."""
    circles = [sorted(map(to_name, circle)) for circle in find_circles(read_file_graph(folder))]

    assert circles == []


def read_first_sentences(room: Path) -> list[str]:
    """Returns the sentences in the first paragraph of a room's docstring; empty without a docstring."""
    file = room / "__init__.py"
    docstring = ast.get_docstring(parse_module(file)) if file.is_file() else None
    paragraph = " ".join((docstring or "").split("\n\n")[0].split())
    return re.findall(r"\S.*?[.](?=\s|$)", paragraph) if paragraph.endswith(".") else []


@pytest.mark.parametrize("folder", [*ROOMS, "bench"])
def test_a_room_says_what_it_is(folder: str) -> None:
    """The docstring of each folder of code begins with two sentences: what happens there, and what may not."""
    denial = re.compile(r"\b(no|not|nothing|never|neither|none|nor|only|alone)\b", re.IGNORECASE)
    rooms = {path.parent: read_first_sentences(path.parent) for path in list_modules(folder)}
    unclear = [
        f"{to_name(room)}: {sentences}"
        for room, sentences in rooms.items()
        if len(sentences) != 2 or not denial.search(sentences[1])
    ]

    assert unclear == []


def test_the_hand_needs_the_standard_library_alone() -> None:
    """What runs as root has no dependency."""
    strange = [
        f"{to_name(path)}:{line} imports {name}"
        for path in list_modules("hand")
        for line, name in imports(path)
        if name.split(".")[0] not in sys.stdlib_module_names | {"hand"}
    ]

    assert strange == []


def test_other_rooms_meet_collectors_at_their_face() -> None:
    """Outside collectors/, only the names that `collectors` itself exports are imported."""
    import collectors

    crossed = [
        f"{to_name(path)}:{line} imports {name}"
        for room in ("agent", "rules")
        for path in list_modules(room)
        for line, name in imports(path)
        if name.startswith("collectors.") and name.removeprefix("collectors.") not in collectors.__all__
    ]

    assert crossed == []


def test_collectors_are_strangers_to_each_other() -> None:
    """A collector imports the face and its furniture, never another collector."""
    crossed = []
    for path in list_modules("collectors"):
        for line, name in imports(path):
            parts = name.split(".")
            sibling = len(parts) > 1 and (HOUSE / "collectors" / f"{parts[1]}.py").exists()
            if parts[0] == "collectors" and sibling and not parts[1].startswith("_"):
                crossed.append(f"{to_name(path)}:{line} imports {name}")

    assert crossed == []


def test_actions_are_strangers_to_the_agent() -> None:
    """An action imports contract, furniture, units and the law of pacing; no other action, nothing that reaches out."""
    ours = r"agent\.actions\.([A-Z_]\w*(\.\w+)?|read_only)|agent\.text\.units\.\w+"
    ours += r"|agent\.pacing\.(controller|inputs|settings)(\.\w+)?"
    allowed = re.compile(rf"^({ours}|__future__\..*|collections\..*|dataclasses\..*|typing\..*)$")
    plain = {"json", "msgspec", "re", "urllib.parse"}
    crossed = [
        f"{to_name(path)}:{line} imports {name}"
        for path in list_modules("agent")
        if path.parent.name == "actions" and path.name != "__init__.py"
        for line, name in imports(path)
        if not allowed.match(name) and name not in plain
    ]

    assert crossed == []


def find_limit(path: Path) -> int:
    """Returns how many lines a file may have."""
    parts = path.relative_to(HOUSE).parts
    if parts[0] == "engine":
        return 300
    return 200 if parts[0] == "collectors" or parts[:2] == ("agent", "actions") else 400


def test_files_fit_one_head() -> None:
    """Collectors and actions stay under 200 lines, the engine's files under 300, others under 400, functions at 60."""
    long = []
    for path in [*every_module(), *list_modules("bench"), *list_modules("tests")]:
        text = path.read_text()
        if text.count("\n") > find_limit(path):
            long.append(f"{to_name(path)}: {text.count(chr(10))} lines")
        for node in ast.walk(parse_module(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 60:
                    long.append(f"{to_name(path)}:{node.lineno} {node.name}: {lines} lines")

    assert long == []


def test_names_say_what_things_are() -> None:
    """No file, class or function is a manager, helper, util, common, handler, base or misc."""
    offenders = []
    for path in every_module():
        names = [path.stem]
        for node in ast.walk(parse_module(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.append(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name))
        offenders += [f"{to_name(path)}: {name}" for name in names if BANNED_NAMES.search(name)]

    assert offenders == []


def test_no_cache_is_emptied_whole_at_its_limit() -> None:
    """
    A cache that empties itself when full serves nobody as soon as there is one entry more than it holds.

    History's 1,024 selections did: with 1,100 rules each tick took 20 times longer.
    """
    offenders = []
    for path in every_module():
        for node in ast.walk(parse_module(path)):
            if isinstance(node, ast.If) and (match := re.search(r"len\(([\w.]+)\) >=? ", ast.unparse(node.test))):
                emptied = (f"{match[1]}.clear()", f"{match[1]} = {{}}", f"{match[1]} = dict()", "cache_clear()")
                if any(text in ast.unparse(statement) for statement in node.body for text in emptied):
                    offenders.append(f"{to_name(path)}:{node.lineno}")

    assert offenders == []


def test_ignores_have_their_reason() -> None:
    """Every `noqa` and `type: ignore` says why on its line."""
    bare = re.compile(r"#\s*(noqa|type: ignore)(\[[\w, -]+\]|: [A-Z0-9, ]+)?\s*$")
    offenders = [
        f"{to_name(path)}:{number}"
        for path in every_module()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]

    assert offenders == []


def test_tests_state_a_fact() -> None:
    """Every test function has a docstring, and tests/ has no __init__.py that would shadow a room."""
    bare = []
    for path in sorted((HOUSE / "tests").rglob("*.py")):
        for node in ast.walk(parse_module(path)):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and node.name.startswith("test_") and not ast.get_docstring(node):
                bare.append(f"{to_name(path)}:{node.lineno} {node.name}")

    assert bare == []
    assert list((HOUSE / "tests").rglob("__init__.py")) == []
