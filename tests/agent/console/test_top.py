"""`steadytok top` against a real agent; what anybody may read of it, and what needs its token."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from agent.console.live_table import build_table
from agent.console.overview import AlertSummary, CollectorSummary, Overview, PanelLine
from agent.console.panels import load_panels
from agent.console.rows import build_rows, format_lines
from tests import processes
from tests.answering import serve_answer
from tests.conftest import MACHINES, load
from tests.scene import SECRET, Scene

SPEED = load_panels()[0]
QUIET = {"mode": "observe", "halted": "", "killed": False, "pauses": [], "latches": [], "remedies": []}
OVERVIEW = Overview(
    now=1_700_000_000.0,
    age=0.5,
    host="box",
    version="1",
    panels=((SPEED, (PanelLine("r1", "line", 41.25, "", (None, 40.0, 41.25)),)),),
    alerts=(AlertSummary("DimmHot", "firing", "critical", "DIMM a is hot.", 1_699_999_880.0),),
    remedies=QUIET,
    audit=(),
    collectors=(CollectorSummary("hwmon", 1.0, 0.01, 0.002, "failing"),),
)


@pytest.fixture(scope="module", name="scene")
def _scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    root = folder / "root"
    sensors = load(MACHINES / "two_nodes_sensors.py").files()
    load(MACHINES / "two_nodes.py").build(root, sensors)
    scene = Scene(folder, root)
    scene.set_temperature(60)
    with scene.run_agent():
        _wait_until_shown(scene, "speed: r1")  # only what was measured before an act is told of it
        scene.set_temperature(95)
        _wait_until_shown(scene, "act of tell")
        yield scene


def _wait_until_shown(scene: Scene, text: str) -> None:
    processes.wait_until(lambda: text in top("--once", "--url", scene.url).stdout, 30, f"top says {text}")


def top(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", "top", *arguments], capture_output=True, text=True, timeout=30
    )


def request_json(url: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_once_says_it_all_for_scripts(scene: Scene) -> None:
    """Each subject is a line with a tab: speed, heat, limit, memory, alert, act of a remedy, cost of a collector."""
    finished = top("--once", "--config", str(scene.config))
    texts = dict(line.split("\t", 1) for line in finished.stdout.splitlines())

    assert (finished.returncode, finished.stderr) == (0, "")
    assert texts["host"].startswith("box<1>, steadytok ")
    assert re.fullmatch(r"[34]\d\.\d tokens/s", texts["speed: r1"])
    assert texts["hottest dimm: 4-0052"] == "95.0 °C"
    assert texts["hottest dimm: limit"] == "85.0 °C"
    assert texts["memory used: node 1"] == "10 %, 226.3 GiB left"
    assert texts["kv cache used: r1"] == "50 %"
    assert re.match(r"critical for \d+ s: DIMM 4-0052 is at 95 °C", texts["alert ModuleHot"])
    assert re.match(
        r"\d+ s ago, for ModuleHot: observe only: POST to http://127.0.0.1:1; before: r1 25 ms", texts["act of tell"]
    )
    assert re.fullmatch(r"[\d.]+ s old, takes [\d.]+ ms, [\d.]+% of a core", texts["collector hwmon"])


def test_what_is_open_has_no_secret(scene: Scene) -> None:
    """Anybody may read remedies and their audit, so a webhook's address is shown without its path."""
    (listed, remedies), (audited, audit) = (
        request_json(f"{scene.url}/api/v1/remedies{path}") for path in ("", "/audit?limit=1000")
    )

    assert (listed, audited) == (200, 200)
    assert {entry["what"] for entry in audit} >= {"begin", "intended"}
    assert "posts the alert to http://127.0.0.1:1" in [each["does"] for each in remedies["remedies"]]
    assert SECRET not in json.dumps([remedies, audit])
    assert scene.token not in json.dumps([remedies, audit])


@pytest.mark.parametrize("path", ["", "static/page.js", "static/panels.json"])
def test_the_pages_files_come_with_the_policy(scene: Scene, path: str) -> None:
    """The agent's policy forbids foreign and inline content and the guessing of types."""
    with urllib.request.urlopen(f"{scene.url}/{path}", timeout=5) as answer:
        headers = answer.headers

    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["pause", "resume", "try"])
def test_what_changes_something_needs_the_token(scene: Scene, path: str) -> None:
    """Without a valid token the answer is 401 and nothing changes."""
    url, body = f"{scene.url}/api/v1/remedies/{path}", b'{"name": "night"}'

    assert request_json(url, body)[0] == 401
    assert request_json(url, body, Authorization="Bearer guessed")[0] == 401
    assert request_json(f"{scene.url}/api/v1/remedies")[1]["pauses"] == []


def test_a_pause_is_shown(scene: Scene) -> None:
    """With the token remedies are paused and resumed; `top` shows the name of the pause."""
    url, right = f"{scene.url}/api/v1/remedies", {"Authorization": f"Bearer {scene.token}"}
    assert request_json(f"{url}/pause", b'{"name": "page"}', **right)[0] == 200
    assert "remedies\tpaused by page\n" in top("--once", "--url", scene.url).stdout

    assert request_json(f"{url}/resume", b'{"name": "page"}', **right)[0] == 200
    assert "paused by" not in top("--once", "--url", scene.url).stdout


def test_on_a_terminal_it_is_live(scene: Scene) -> None:
    """The table is drawn in place of the screen, and Ctrl-C leaves it without a traceback."""
    primary, secondary = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "60"}
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", "top", "--url", scene.url, "--every", "0.5"],
        stdin=secondary, stdout=secondary, stderr=secondary, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(secondary)
    screen = ""
    while "collector vmstat" not in screen:
        screen += os.read(primary, 65536).decode("utf-8", "replace")
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the other end has closed
        while block := os.read(primary, 65536):
            screen += block.decode("utf-8", "replace")
    os.close(primary)

    assert process.wait(10) == 0
    assert "\x1b[?1049h" in screen
    assert "\x1b[?1049l" in screen
    assert "Traceback" not in screen


def test_without_an_agent_there_is_one_sentence() -> None:
    """No agent, another server, or no valid address: one sentence with what to do, and a status."""
    nobody = top("--once", "--url", f"http://127.0.0.1:{processes.find_free_port()}")
    wrong = top("--once", "--url", "localhost:9817")

    assert (nobody.returncode, wrong.returncode) == (1, 2)
    assert re.fullmatch(
        r"steadytok: no agent answers at http://\S+/: Connection refused; is it running\?\n", nobody.stderr
    )
    assert wrong.stderr == "steadytok: --url: expected http://HOST:PORT, found 'localhost:9817'\n"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b"<html>", "answers HTTP 404: not an agent that `top` can read"),
        (401, b'{"error": "expected a credential"}', "refuses: expected a credential"),
        (200, b"<html>", "does not answer as this version"),
        (200, b'{"data": {"result": [{"metric": {}}]}}', "does not answer as this version"),
        (200, b'{"data": {"result": []}}', "has read nothing yet"),
    ],
)
def test_other_answers_are_said(status: int, body: bytes, words: str) -> None:
    """Any unexpected answer gives one sentence and no traceback."""
    with serve_answer(status, body) as address:
        finished = top("--once", "--url", f"http://{address}")

    assert (finished.returncode, finished.stderr.count("\n")) == (1, 1)
    assert words in finished.stderr


def test_a_label_cannot_clear_the_screen() -> None:
    """Escape sequences and line ends in names, sentences and reasons come out as text, in lines and in the table."""
    evil = "\x1b[2J\x1b]0;x\x07a\nb\u202e"
    overview = replace(
        OVERVIEW,
        host=evil,
        alerts=(replace(OVERVIEW.alerts[0], name=evil, summary=evil),),
        remedies={**QUIET, "pauses": [evil]},
        collectors=(replace(OVERVIEW.collectors[0], name=evil),),
    )
    stream = io.StringIO()
    Console(file=stream, width=200, no_color=True).print(build_table(build_rows(overview), "", evil))

    assert all(line.replace("\t", "").isprintable() for line in format_lines(overview))
    assert "\x1b" not in stream.getvalue()
    assert r"\x1b[2J\x1b]0;x\x07a\nb\u202e" in stream.getvalue()


def test_a_missing_reading_is_missing() -> None:
    """A line without its newest two points has no reading; without only the newest it shows the one before."""
    gone, late = (
        replace(OVERVIEW, panels=((SPEED, (PanelLine("r1", "line", None, "", (40.0, before, None)),)),))
        for before in (None, 41.0)
    )

    assert next(row.text for row in build_rows(gone) if row.label == "speed: r1") == "no reading"
    assert next(row.text for row in build_rows(late) if row.label == "speed: r1") == "41.0 tokens/s"


def test_an_agent_that_stands_still_is_said_to() -> None:
    """An agent that answers without sampling is reported as stalled."""
    assert "stalled: no samples for 42 s" in " ".join(format_lines(replace(OVERVIEW, age=42.0)))


def test_colours_say_how_bad() -> None:
    """Critical is red, beyond a limit is red, a failing collector is red."""
    heat = next(panel for panel in load_panels() if panel.id == "heat")
    heat_lines = (PanelLine("a", "line", 86.0, "", (86.0,)), PanelLine("limit", "limit", 85.0, "", (85.0,)))
    colours = {row.label: row.colour for row in build_rows(replace(OVERVIEW, panels=((heat, heat_lines),)))}

    assert "red" in colours["hottest dimm: a"]
    assert "red" in colours["alert DimmHot"]
    assert colours["collector hwmon"] == "red"


@pytest.mark.parametrize(
    ("events", "observed", "words"),
    [
        (("begin", "intended", "did", "helped", "release", "restored"), False, "to 0.5 → done → helped → restored"),
        (("begin", "intended", "did"), True, "observe only: to 0.5"),
        (("begin", "failed"), False, "no plan → failed"),
        (("begin", "intended", "did", "useless"), False, "to 0.5 → done → did not help"),
    ],
)
def test_an_act_tells_whether_it_helped(events: tuple[str, ...], observed: bool, words: str) -> None:
    """The audit lines of one act become one sentence: its plan and its outcome."""
    entries = [
        {
            "at_ms": 1_699_999_990_000,
            "remedy": "cool",
            "labels": {"alertname": "DimmHot"},
            "what": event,
            "says": "to 0.5" if event == "intended" else "",
            "observed": observed,
            "act": 7,
        }
        for event in events
    ]
    texts = {row.label: row.text for row in build_rows(replace(OVERVIEW, audit=entries))}

    assert texts["act of cool"] == f"10 s ago, for DimmHot: {words}"
