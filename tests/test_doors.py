"""The doors of the house: the few places that open files, start processes, print, or import by name."""

from __future__ import annotations

import ast
import re

import pytest

from tests.structure import HOUSE, list_modules, parse_module
from tests.structure import read_imports as imports
from tests.test_house import calls, every_module, to_name

# What the kernel may work on for long is written by a process that can be killed; and root's own commands.
HANDS_DOORS = ("hand/children.py", "hand/run_command.py")


def test_files_are_opened_at_the_door() -> None:
    """In collectors/ only underscored files open anything; in rules/ only what loads rule and test files does."""
    openers = re.compile(r"^(open|os\.open|io\.open|.*\.(read_text|read_bytes|open))$")
    allowed = {"rules/rulefile.py", "rules/unittests/test_file.py"}
    offenders = [
        f"{to_name(path)}:{line} calls {name}"
        for room in ("collectors", "rules")
        for path in list_modules(room)
        if not (room == "collectors" and "/_" in to_name(path)) and to_name(path) not in allowed
        for line, name in calls(path)
        if openers.match(name)
    ]

    assert offenders == []


OPENERS = re.compile(r"^(open|os\.open|io\.open|.*[a-z_]\.(read_text|read_bytes))$")
# Beside the door, collectors/_host/regular_files.py: what ships with the agent, the kernel's files, and new files.
OPEN_THEIR_OWN = {
    "agent/__main__.py",
    "agent/console/panels.py",
    "agent/engines/baseline_handover.py",
    "agent/install/environment.py",
    "agent/install/sandbox.py",
    "agent/install/settle.py",
    "agent/recorder/segment_writer.py",
    "agent/remediation/catalog.py",
    "agent/remediation/journal.py",
    "agent/storage/sqlite.py",
    "agent/storage/state_dir.py",
    "agent/web/pages.py",
    "agent/web/server.py",
}


def test_files_of_people_and_of_the_state_folder_have_one_door() -> None:
    """At a path that somebody wrote may be a pipe or a device: only what ships with the agent is opened elsewhere."""
    offenders = [
        f"{to_name(path)}:{line} calls {name}"
        for room in ("agent", "rules")
        for path in list_modules(room)
        if to_name(path) not in OPEN_THEIR_OWN
        for line, name in calls(path)
        if OPENERS.match(name) and not re.match(r"^(self|reader|table)\.", name)
    ]

    assert offenders == []


def test_databases_are_opened_at_their_door() -> None:
    """Only agent/storage/sqlite.py calls SQLite's connect: it makes files private, and refuses what is no file."""
    offenders = [
        f"{to_name(path)}:{line}"
        for path in every_module()
        for line, name in calls(path)
        if name == "sqlite3.connect" and to_name(path) != "agent/storage/sqlite.py"
    ]

    assert offenders == []


PACING = ("thermal_model", "controller", "benefit", "settings", "inputs")


DECIDING = (
    *(f"agent/remediation/{name}.py" for name in ("model", "claims", "evidence", "guards", "transitions")),
    *(f"agent/pacing/{name}.py" for name in PACING),
    "agent/actions/_controller.py",
)


def test_what_decides_has_no_clock_and_no_network() -> None:
    """rules/ and the guards of remedies never ask for the time, a socket or a thread: `now` is given to them."""
    forbidden = {"time", "socket", "asyncio", "threading", "subprocess", "random", "aiohttp", "urllib.request"}
    offenders = [
        f"{to_name(path)}:{line} imports {name}"
        for path in [*list_modules("rules"), *(HOUSE / name for name in DECIDING)]
        for line, name in imports(path)
        if name in forbidden or name.split(".")[0] in forbidden
    ]

    assert offenders == []


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
        (r"^importlib\.import_module$", {"agent/runtime/entry_points.py", "agent/__main__.py"}),
    ],
)
def test_doors_are_few(door: str, allowed: set[str]) -> None:
    """Processes, dynamic imports and executors each have their one place, or none."""
    offenders = [
        f"{to_name(path)}:{line} calls {name}"
        for path in every_module()
        if to_name(path) not in allowed
        for line, name in calls(path)
        if re.match(door, name)
    ]

    assert offenders == []


# Who may speak HTTP as a client: the two doors, and the engine's router, which asks its own workers.
HTTP_DOORS = {"collectors/_host/http_answers.py", "agent/runtime/http_client.py", "engine/serving/router.py"}
# An answer's body, read beside a door; a server reads the body of its own `request`, which access control bounds.
BODY_READERS = {"text", "json", "read", "readany", "readline", "readchunk", "iter_any", "iter_chunked", "iter_chunks"}


def test_answers_over_http_have_one_door() -> None:
    """Whoever reads a peer's answer bounds it: no other file imports a client of HTTP or opens a session."""
    clients = re.compile(r"^(urllib\.request|http\.client|requests|httpx|urllib3|pycurl)(\.|$)")
    sessions = re.compile(
        r"^(.*\.)?(urlopen|build_opener|ClientSession|TCPConnector|HTTPS?Connection)$|^aiohttp\.request$"
    )
    offenders = []
    for path in every_module():
        if to_name(path) in HTTP_DOORS:
            continue
        offenders += [f"{to_name(path)}:{line} imports {name}" for line, name in imports(path) if clients.match(name)]
        offenders += [f"{to_name(path)}:{line} calls {name}" for line, name in calls(path) if sessions.match(name)]

    assert offenders == []


def test_no_body_is_read_beside_the_door() -> None:
    """`await response.text()` and its like, which have no bound, stand at the door alone."""
    offenders = [
        f"{to_name(path)}:{node.lineno} reads {ast.unparse(node)}"
        for path in list_modules("agent")
        if to_name(path) not in HTTP_DOORS
        for node in ast.walk(parse_module(path))
        if isinstance(node, ast.Attribute)
        and (
            (node.attr in BODY_READERS and isinstance(node.value, ast.Attribute) and node.value.attr == "content")
            or (node.attr in BODY_READERS and ast.unparse(node.value) in ("response", "answer", "resp"))
        )
    ]
    # `answer.text` of the door's own answer is bounded already; a call of it would be aiohttp's.
    offenders = [offender for offender in offenders if not offender.endswith(" answer.text")]

    assert offenders == []


@pytest.mark.parametrize("folder", ["agent", "collectors", "hand"])
def test_what_is_received_from_a_socket_is_counted(folder: str) -> None:
    """A file that calls recv has a greatest number of bytes for what it collects."""
    offenders = [
        f"{to_name(path)}:{line} calls {name}"
        for path in list_modules(folder)
        for line, name in calls(path)
        if re.search(r"\.recv(_into)?$", name)
        and not re.search(r"MAX_|LIMIT|LONGEST|LARGEST|MOST|limit", path.read_text())
    ]

    assert offenders == []


# Each bounds its connections, and gives a client one deadline for the whole of its request.
# Who opens a listener, and the file that limits its connections.
LISTENERS = {
    "agent/web/listener.py": "agent/web/listener.py",
    "engine/serving/http_connection.py": "engine/serving/http_connection.py",
    "hand/possession.py": "hand/server.py",
}


def test_listeners_are_few() -> None:
    """A new listener comes with a limit of its connections and a deadline of their requests, and is then added here."""
    opening = re.compile(r"(^|\.)(listen|create_server|start_server|start_unix_server|create_unix_server|server_bind)$")
    offenders = [
        f"{to_name(path)}:{line} calls {name}"
        for path in every_module()
        if to_name(path) not in LISTENERS
        for line, name in calls(path)
        if opening.search(name) and name not in ("self._listener.listen", "site.start_server")
    ]

    assert offenders == []
    for name in LISTENERS.values():
        assert re.search(r"MAX_CONNECTIONS", (HOUSE / name).read_text()), name


# Who sends a credential, and to whom: what the operator names for that peer, or the agent's token to the agent's user.
SENDERS = {
    "agent/actions/_pace_endpoint.py",  # the operator's token_file for a gateway
    "agent/actions/warm_up.py",  # the operator's token_file for the engine
    "agent/actions/webhook.py",  # the operator's token_file for the webhook
    "agent/alerting/alertmanagers.py",  # the operator's credential for that Alertmanager
    "agent/commands/_running.py",  # the agent's token, to a listener of its user
    "agent/commands/top.py",  # as above
    "agent/enginebench/client.py",  # --key-file
    "agent/remediation/pace_proof.py",  # a signature
    "collectors/_host/http_answers.py",  # the user in an operator's URL
    "collectors/_host/host.py",  # the key that the operator named for that engine
    "engine/serving/router.py",  # a signature
}


def test_credentials_are_sent_from_few_places() -> None:
    """One secret has one audience: a new place that sends one says here which, and to whom."""
    senders = {
        to_name(path)
        for path in every_module()
        for node in ast.walk(parse_module(path))
        if (isinstance(node, ast.Dict) and any(_is_authorization(key) for key in node.keys))
        or (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and _is_authorization(node.slice))
    }

    assert senders == SENDERS


def _is_authorization(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and str(node.value).lower() == "authorization"


def test_udev_has_one_door() -> None:
    """Only agent/sampling/hotplug.py imports pyudev, and nobody in this house imports pyghmi outside collectors/."""
    offenders = [
        f"{to_name(path)}:{line}"
        for path in every_module()
        for line, name in imports(path)
        if (name.startswith("pyudev") and to_name(path) != "agent/sampling/hotplug.py")
        or (name.startswith("pyghmi") and path.parts[-2] != "_ipmi")
    ]

    assert offenders == []


def test_printing_has_one_door() -> None:
    """What others wrote must not talk to a terminal: commands print with agent/text/terminal.py, logs with log.py."""
    allowed = {"agent/text/terminal.py", "agent/text/log.py"}
    # Both write only what is our own: a sentence before there is anything else, and JSON for a pipe.
    allowed |= {"agent/__main__.py", "agent/install/sandbox.py"}
    offenders = [
        f"{to_name(path)}:{line} calls {name}"
        for path in list_modules("agent")
        if to_name(path) not in allowed
        for line, name in calls(path)
        if re.fullmatch(r"print|click\.s?echo|click\.echo_via_pager|sys\.std(out|err)\.write(lines)?", name)
    ]

    assert offenders == []


def test_no_shell() -> None:
    """`shell=True` stands nowhere."""
    offenders = [
        f"{to_name(path)}:{node.lineno}"
        for path in every_module()
        for node in ast.walk(parse_module(path))
        if isinstance(node, ast.keyword) and node.arg == "shell"
    ]

    assert offenders == []
