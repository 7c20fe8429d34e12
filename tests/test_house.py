"""The laws of the house (who may import whom, and which doors there are), held by reading the code itself."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
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
# What the kernel may work on for long is written by a process that can be killed; and root's own commands.
HANDS_DOORS = ("hand/files.py", "hand/verbs/command.py")
BANNED_NAMES = re.compile(r"(?:^|_)(manager|helper|utils?|common|handler|misc|base)(?:_|$)", re.IGNORECASE)


def modules(room: str) -> list[Path]:
    return sorted((HOUSE / room).rglob("*.py"))


def every_module() -> list[Path]:
    return [path for room in ROOMS for path in modules(room)]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every imported name with its line, inside functions too; relative imports as they would resolve."""
    package = path.relative_to(HOUSE).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (above, node.module or "")))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def calls(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def named(path: Path) -> str:
    return str(path.relative_to(HOUSE))


def test_calls_go_down() -> None:
    """No room imports one above it, and nobody imports the engine."""
    crossed = [
        f"{named(path)}:{line} imports {name}"
        for room in ROOMS
        for path in modules(room)
        for line, name in imports(path)
        if name.split(".")[0] in ROOMS and name.split(".")[0] not in MAY_IMPORT[room]
    ]

    assert crossed == []


def test_the_hand_needs_the_standard_library_alone() -> None:
    """What runs as root has no dependency."""
    strange = [
        f"{named(path)}:{line} imports {name}"
        for path in modules("hand")
        for line, name in imports(path)
        if name.split(".")[0] not in sys.stdlib_module_names | {"hand"}
    ]

    assert strange == []


def test_other_rooms_meet_collectors_at_their_face() -> None:
    """Outside collectors/, only the names that `collectors` itself exports are imported."""
    import collectors

    crossed = [
        f"{named(path)}:{line} imports {name}"
        for room in ("agent", "rules")
        for path in modules(room)
        for line, name in imports(path)
        if name.startswith("collectors.") and name.removeprefix("collectors.") not in collectors.__all__
    ]

    assert crossed == []


def test_collectors_are_strangers_to_each_other() -> None:
    """A collector imports the face and its furniture, never another collector."""
    crossed = []
    for path in modules("collectors"):
        for line, name in imports(path):
            parts = name.split(".")
            sibling = len(parts) > 1 and (HOUSE / "collectors" / f"{parts[1]}.py").exists()
            if parts[0] == "collectors" and sibling and not parts[1].startswith("_"):
                crossed.append(f"{named(path)}:{line} imports {name}")

    assert crossed == []


def test_actions_are_strangers_to_the_agent() -> None:
    """An action imports contract, furniture, units and the law of pacing; no other action, nothing that reaches out."""
    ours = r"agent\.actions\.[A-Z_]\w*(\.\w+)?|agent\.text\.units\.\w+|agent\.pacing(\.(inputs|settings|\w+))?\.\w+"
    allowed = re.compile(rf"^({ours}|__future__\..*|collections\..*|dataclasses\..*|typing\..*)$")
    plain = {"json", "msgspec", "re", "urllib.parse"}
    crossed = [
        f"{named(path)}:{line} imports {name}"
        for path in modules("agent")
        if path.parent.name == "actions" and path.name != "__init__.py"
        for line, name in imports(path)
        if not allowed.match(name) and name not in plain
    ]

    assert crossed == []


def test_files_are_opened_at_the_door() -> None:
    """In collectors/ only underscored files open anything; in rules/ only what loads rule and test files does."""
    openers = re.compile(r"^(open|os\.open|io\.open|.*\.(read_text|read_bytes|open))$")
    allowed = {"rules/rulefile.py", "rules/unittests/test_file.py"}
    found = [
        f"{named(path)}:{line} calls {name}"
        for room in ("collectors", "rules")
        for path in modules(room)
        if not (room == "collectors" and "/_" in named(path)) and named(path) not in allowed
        for line, name in calls(path)
        if openers.match(name)
    ]

    assert found == []


PACING = ("thermal_model", "controller", "benefit", "settings", "inputs")
DECIDING = (
    *(f"agent/remediation/{name}.py" for name in ("model", "claims", "guards", "transitions")),
    *(f"agent/pacing/{name}.py" for name in PACING),
    "agent/actions/_controller.py",
)


def test_what_decides_has_no_clock_and_no_network() -> None:
    """rules/ and the guards of remedies never ask for the time, a socket or a thread: `now` is given to them."""
    forbidden = {"time", "socket", "asyncio", "threading", "subprocess", "random", "aiohttp", "urllib.request"}
    found = [
        f"{named(path)}:{line} imports {name}"
        for path in [*modules("rules"), *(HOUSE / name for name in DECIDING)]
        for line, name in imports(path)
        if name in forbidden or name.split(".")[0] in forbidden
    ]

    assert found == []


@pytest.mark.parametrize(
    ("door", "allowed"),
    [
        (
            r"^(subprocess\..*|os\.(system|popen|spawn\w*|fork)|asyncio\.create_subprocess_\w+)$",
            {
                "agent/runtime/child_process.py",
                "agent/install/subprocesses.py",
                "engine/serving/workers.py",
                *HANDS_DOORS,
            },
        ),
        (r"^os\.exec\w+$", {"agent/commands/engine.py"}),
        (r"^(asyncio\.to_thread|.*\.run_in_executor)$", set()),
        (r"^importlib\.import_module$", {"agent/sampling/plugins.py", "agent/__main__.py"}),
    ],
)
def test_doors_are_few(door: str, allowed: set[str]) -> None:
    """Processes, dynamic imports and executors each have their one place, or none."""
    found = [
        f"{named(path)}:{line} calls {name}"
        for path in every_module()
        if named(path) not in allowed
        for line, name in calls(path)
        if re.match(door, name)
    ]

    assert found == []


def test_udev_has_one_door() -> None:
    """Only agent/sampling/hotplug.py imports pyudev, and nobody in this house imports pyghmi outside collectors/."""
    found = [
        f"{named(path)}:{line}"
        for path in every_module()
        for line, name in imports(path)
        if (name.startswith("pyudev") and named(path) != "agent/sampling/hotplug.py")
        or (name.startswith("pyghmi") and path.parts[-2] != "_ipmi")
    ]

    assert found == []


def test_printing_has_one_door() -> None:
    """What others wrote must not talk to a terminal: commands print with agent/text/terminal.py, logs with log.py."""
    allowed = {"agent/text/terminal.py", "agent/text/log.py"}
    # Both write only what is our own: a sentence before there is anything else, and JSON for a pipe.
    allowed |= {"agent/__main__.py", "agent/install/sandbox.py"}
    found = [
        f"{named(path)}:{line} calls {name}"
        for path in modules("agent")
        if named(path) not in allowed
        for line, name in calls(path)
        if re.fullmatch(r"print|click\.s?echo|click\.echo_via_pager|sys\.std(out|err)\.write(lines)?", name)
    ]

    assert found == []


def test_no_shell() -> None:
    """`shell=True` stands nowhere."""
    found = [
        f"{named(path)}:{node.lineno}"
        for path in every_module()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "shell"
    ]

    assert found == []


def test_files_fit_one_head() -> None:
    """Collectors and actions stay under 200 lines, the engine's files under 300, others under 400, functions at 60."""
    long = []
    for path in every_module():
        text = path.read_text()
        most = {"collectors": 200, "actions": 200, "engine": 300}.get(path.parent.name, 400)
        if text.count("\n") > most:
            long.append(f"{named(path)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 60:
                    long.append(f"{named(path)}:{node.lineno} {node.name}: {lines} lines")

    assert long == []


def test_names_say_what_things_are() -> None:
    """No file, class or function is a manager, helper, util, common, handler, base or misc."""
    found = []
    for path in every_module():
        names = [path.stem]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.append(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name))
        found += [f"{named(path)}: {name}" for name in names if BANNED_NAMES.search(name)]

    assert found == []


def test_ignores_have_their_reason() -> None:
    """Every `noqa` and `type: ignore` says why on its line."""
    bare = re.compile(r"#\s*(noqa|type: ignore)(\[[\w, -]+\]|: [A-Z0-9, ]+)?\s*$")
    found = [
        f"{named(path)}:{number}"
        for path in every_module()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]

    assert found == []


def test_tests_state_a_fact() -> None:
    """Every test function has a docstring, and tests/ has no __init__.py that would shadow a room."""
    bare = []
    for path in sorted((HOUSE / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and node.name.startswith("test_") and not ast.get_docstring(node):
                bare.append(f"{named(path)}:{node.lineno} {node.name}")

    assert bare == []
    assert list((HOUSE / "tests").rglob("__init__.py")) == []
