"""
The page in a real browser (Debian's chromium), fed by a real agent on a picture of a machine.

Screenshots in light, dark and on a phone are left in build/screenshots/, to be looked at.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from agent.storage.state_dir import state_dir_of_root
from tests import processes
from tests.conftest import MACHINES, load
from tests.deep.browsers import SCREENSHOTS, open_browser
from tests.deep.page_view import SOON, PageView, read_value, wait_until
from tests.scene import Scene

pytestmark = [pytest.mark.deep, pytest.mark.timeout(180)]

DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
LOOKS = [
    pytest.param("light", DESK, id="light"),
    pytest.param("dark", DESK, id="dark"),
    pytest.param("dark", PHONE, id="phone"),
]
# axe's rules that the Web Content Accessibility Guidelines ask for, up to AA, and what is good practice besides.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}

INLINE = """() => {
  const script = document.createElement("script");
  script.textContent = "window.ran = 1";
  document.body.append(script);
}"""
# What has the focus, and whether that is to be seen: a radio button is drawn by the text beside it.
FOCUSED = """() => {
  const at = document.activeElement;
  const marked = [at, at.nextElementSibling ?? at].some((each) => getComputedStyle(each).outlineStyle !== "none");
  return [at === document.body ? null : at.id || at.name || at.textContent, marked];
}"""


OpenView = Callable[..., PageView]


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


def _build_scene(folder: Path, **web: Any) -> Scene:
    root = folder / "root"
    load(MACHINES / "two_nodes.py").build(root, load(MACHINES / "two_nodes_sensors.py").files())
    scene = Scene(folder, root, **web)
    scene.set_temperature(70)
    return scene


@pytest.fixture(scope="module", name="scene")
def _scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = _build_scene(tmp_path_factory.mktemp("scene"))
    with scene.run_agent():
        scene.hand_over_baseline(46.0)
        yield scene


@pytest.fixture(name="open_view")
def _open_view(browser: Browser) -> Iterator[OpenView]:
    with contextlib.ExitStack() as stack:

        def open_view(url: str, scheme: Any = "light", viewport: Any = DESK, **more: Any) -> PageView:
            context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce", **more)
            stack.callback(context.close)
            return PageView(context.new_page(), url)

        yield open_view


def test_it_draws_what_the_agent_reads(scene: Scene, open_view: OpenView) -> None:
    """Speed, the hottest module with its limit, memory by node and the rest are drawn, with no word of complaint."""
    looking = open_view(scene.url)
    page = looking.open()
    wait_until(page, lambda: read_value(page, "speed", "r1")[:2] in ("39", "40", "41"), "the engine's speed is shown")

    wait_until(page, lambda: read_value(page, "speed", "baseline")[:2] in ("45", "46", "47"), "its baseline is shown")

    assert page.title() == "steadytok on box<1>"
    assert page.locator("#host").inner_text() == "box<1>"
    assert read_value(page, "heat", "4-0051") == "83.5"
    assert read_value(page, "heat", "limit") == "85.0"
    assert (read_value(page, "memory", "node 0"), read_value(page, "memory", "node 1")) == ("89", "10")
    assert read_value(page, "kv", "r1") == "50"
    assert read_value(page, "frequency", "allowed") == "3.80"
    expect(page.locator("#strip-remote .none")).to_contain_text(
        "No allocations in the last minute"
    )  # the picture's stand still
    for strip in ("speed", "heat", "frequency", "throttled", "memory", "kv"):
        assert re.match(
            r"M[\d.]+ [\d.]+(h0)?(L|M|$)", page.locator(f"#strip-{strip} path.line").first.get_attribute("d") or ""
        )
    assert page.locator("#collectors li").count() > 10
    assert looking.log_lines == []


def test_it_asks_nobody_else(scene: Scene, open_view: OpenView) -> None:
    """Every request goes to the agent itself, and all that the page is made of is below 100 KiB."""
    looking = open_view(scene.url)
    with looking.page.expect_response(lambda answer: answer.url.endswith("panels.json")):
        looking.open()
    static = {url for url in looking.requests if "/api/" not in url}
    sizes = [len((processes.fetch(url) or "").encode()) for url in static]

    assert {urllib.parse.urlsplit(url).netloc for url in looking.requests} == {urllib.parse.urlsplit(scene.url).netloc}
    assert len(static) > 8
    assert sum(sizes) < 100 * 1024
    assert looking.log_lines == []


def test_the_policy_stands(scene: Scene, open_view: OpenView) -> None:
    """An inline script that somebody would get into the page is not run."""
    looking = open_view(scene.url)
    page = looking.open()
    page.evaluate(INLINE)

    assert page.evaluate("() => window.ran") is None
    assert any("Content Security Policy" in line for line in looking.log_lines)


def test_it_follows(scene: Scene, open_view: OpenView) -> None:
    """A module that gets hotter is seen to, without a reload."""
    looking = open_view(scene.url)
    page = looking.open()
    scene.set_temperature(84.25)
    wait_until(page, lambda: read_value(page, "heat", "4-0052") == "84.3", "the new temperature is shown")

    scene.set_temperature(70)
    wait_until(page, lambda: read_value(page, "heat", "4-0051") == "83.5", "the hottest is another again")
    assert looking.log_lines == []


def test_an_alert_is_raised_before_ones_eyes(scene: Scene, open_view: OpenView) -> None:
    """Its name, its sentence as text, its shade on the charts, what was done; and at its end all is well again."""
    looking = open_view(scene.url)
    page = looking.open()
    expect(page.locator("#verdict")).to_have_text("No alert", timeout=SOON)
    scene.set_temperature(95)
    expect(page.locator("#verdict")).to_have_text("1 alert up", timeout=SOON)
    alert = page.locator("#alerts li").first

    expect(alert).to_contain_text("DIMM 4-0052 is at 95 °C <img src=x onerror=alert(1)>.")
    assert page.title() == "(1) steadytok on box<1>"
    assert alert.locator("img, a").count() == 0
    wait_until(page, lambda: page.locator("#strip-speed rect.up.critical").count() > 0, "the charts are shaded")
    expect(page.locator("#lane")).to_contain_text("ModuleHot")
    expect(page.locator("#lane .when")).to_have_text("now1 up", timeout=SOON)
    expect(page.locator("#acts")).to_contain_text("Would have: POST to http://127.0.0.1:1", timeout=SOON)
    scene.set_temperature(70)
    expect(page.locator("#verdict")).to_have_text("No alert", timeout=SOON)
    assert looking.log_lines == []


@pytest.mark.parametrize(("scheme", "viewport"), LOOKS)
def test_everybody_can_read_it(
    scene: Scene, open_view: OpenView, scheme: str, viewport: dict[str, int], request: Any
) -> None:
    """axe finds nothing to say of contrast, names and roles, with an alert up, all opened, and the dialog too."""
    scene.set_temperature(95)
    looking = open_view(scene.url, scheme, viewport)
    page = looking.open()
    expect(page.locator("#verdict")).to_have_text("1 alert up", timeout=SOON)
    expect(page.locator("#acts")).to_contain_text("Would have", timeout=SOON)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{request.node.callspec.id}.png", full_page=True)
    page.evaluate("() => document.querySelectorAll('details').forEach((each) => (each.open = true))")
    violations = Axe().run(page, options=RULES).response["violations"]
    page.get_by_role("button", name="Pause remedies").click()
    violations += Axe().run(page, options=RULES).response["violations"]
    scene.set_temperature(70)

    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations] == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")


def test_it_fits_the_smallest_phone(scene: Scene, open_view: OpenView) -> None:
    """At 320 pixels nothing stands out at the side."""
    page = open_view(scene.url, "light", {"width": 320, "height": 568}).open()

    assert page.evaluate("() => document.documentElement.scrollWidth") == 320


def test_one_screen_is_enough(scene: Scene, open_view: OpenView) -> None:
    """On a laptop's screen the charts with their time axis are seen whole, without scrolling."""
    page = open_view(scene.url).open()
    box = page.locator("#cursor").bounding_box()

    assert box is not None
    assert box["y"] + box["height"] <= DESK["height"]


def test_the_pointer_reads_all_charts_at_one_time(scene: Scene, open_view: OpenView) -> None:
    """Over one chart all show the time under the pointer and their values then; away from them it is now again."""
    page = open_view(scene.url).open()
    wait_until(
        page, lambda: "L" in (page.locator("#strip-heat path.line").first.get_attribute("d") or ""), "two points"
    )
    box = page.locator("#strip-heat .plot").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 48, box["y"] + 30)

    expect(page.locator("#lane .when b")).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))
    assert page.locator(".cursor line").count() == 8
    assert read_value(page, "memory", "node 1") == "10"
    page.mouse.move(box["x"] + 40, box["y"] + 30)
    assert read_value(page, "memory", "node 1") == "–", "nothing was read then, and nothing is shown"
    page.mouse.move(5, 5)
    expect(page.locator("#lane .when b")).to_have_text("now")


def test_the_keyboard_is_enough(scene: Scene, open_view: OpenView) -> None:
    """Everything that can be done is reached by Tab with a mark to see; the cursor moves by arrows and says values."""
    page = open_view(scene.url).open()
    page.reload()  # or Tab would go on from what was clicked
    expect(page.locator("#verdict")).to_have_text("No alert", timeout=SOON)
    reached: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, marked = page.evaluate(FOCUSED)
        if name in (None, *reached):
            break
        assert marked, f"the focus is not seen at {name}"
        reached.append(name)
        if name == "cursor":
            page.keyboard.press("ArrowLeft")
            text = page.locator("#cursor").get_attribute("aria-valuetext") or ""
            page.keyboard.press("Escape")

    assert {"range", "cursor", "pause", "/metrics"} <= set(reached)
    assert re.match(r"\d\d:\d\d:\d\d, ", text)
    assert "r1 " in text
    assert "tokens/s" in text
    assert page.locator("#cursor").get_attribute("aria-valuetext") == "now"


def test_remedies_are_paused_with_the_credential(scene: Scene, open_view: OpenView) -> None:
    """Without it they are not; with it they are, which is shown and can be lifted; and it is kept nowhere."""
    looking = open_view(scene.url)
    page = looking.open()
    page.get_by_role("button", name="Pause remedies").click()
    page.locator("#credential").fill("guessed")
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator("#ask-fault")).to_have_text("The agent does not take this credential.")
    page.locator("#credential").fill(scene.token)
    page.keyboard.press("Enter")
    expect(page.locator("#pauses")).to_contain_text("Paused by page", timeout=SOON)

    assert page.locator("#credential").input_value() == ""
    assert page.evaluate("() => [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.get_by_role("button", name="Resume page").click()
    page.locator("#credential").fill(scene.token)
    page.get_by_role("button", name="Resume", exact=True).click()
    expect(page.locator("#pauses")).not_to_contain_text("Paused", timeout=SOON)
    assert all("401" in line for line in looking.log_lines), looking.log_lines


def test_what_is_missing_is_a_gap(scene: Scene, open_view: OpenView) -> None:
    """While the engine does not answer its line has a hole, not a zero, and its value is a dash."""
    page = open_view(scene.url).open()
    wait_until(page, lambda: read_value(page, "kv", "r1") == "50", "the engine is there")
    with scene.silence_engine():
        wait_until(page, lambda: read_value(page, "kv", "r1") == "–", "its value is gone")
    wait_until(page, lambda: read_value(page, "kv", "r1") == "50", "it is back")
    drawn = page.locator("#strip-kv path.line").get_attribute("d") or ""

    assert drawn.count("M") == 2
    # Half full is in the middle of the axis from 0 to 100, and nothing is drawn elsewhere.
    assert len(set(re.findall(r"[ML][\d.]+ ([\d.]+)", drawn))) == 1


def test_an_agent_that_has_gone_is_said_to(tmp_path: Path, open_view: OpenView) -> None:
    """What is shown then is marked as of then; when it is back the page goes on, and the time without it is hatched."""
    scene = _build_scene(tmp_path)
    looking = open_view(scene.url)
    with scene.run_agent():
        page = looking.open()
        wait_until(
            page,
            lambda: (page.locator("#strip-memory path.line").first.get_attribute("d") or "").count("L") > 2,
            "it is drawn",
        )
        assert looking.log_lines == []
    expect(page.locator("#gone")).to_have_text(
        re.compile(r"No answer since \d\d:\d\d:\d\d: nobody answers"), timeout=SOON
    )
    assert read_value(page, "heat", "4-0051") == "83.5"
    page.screenshot(path=SCREENSHOTS / "gone.png")
    page.wait_for_timeout(4000)
    with scene.run_agent():
        expect(page.locator("#gone")).to_be_hidden(timeout=SOON)
        wait_until(
            page, lambda: page.locator("#strip-speed rect.gap").count() == 2, "before the first start, and in between"
        )


def test_behind_a_password_the_page_is_the_same(tmp_path: Path, open_view: OpenView) -> None:
    """The browser asks for it once; remedies are paused with the token; `top` reads with the token, or is refused."""
    hashed = bcrypt.hashpw(b"night", bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yml").write_text(json.dumps({"basic_auth_users": {"anna": hashed}}))
    scene = _build_scene(tmp_path, config=str(tmp_path / "web.yml"))
    # `agent()` would wait for an answer without a password.
    with scene.run_agent(open_to_all=False):
        looking = open_view(scene.url, http_credentials={"username": "anna", "password": "night"})
        page = looking.open()
        wait_until(page, lambda: read_value(page, "heat", "4-0051") == "83.5", "it is drawn")
        page.get_by_role("button", name="Pause remedies").click()
        page.locator("#credential").fill(scene.token)
        page.keyboard.press("Enter")
        expect(page.locator("#pauses")).to_contain_text("Paused by page", timeout=SOON)
        command = [sys.executable, "-m", "agent", "top", "--once"]
        completed = subprocess.run(
            [*command, "--config", str(scene.config)], capture_output=True, text=True, timeout=30
        )
        others = subprocess.run([*command, "--url", scene.url], capture_output=True, text=True, timeout=30)

    assert looking.log_lines == []
    assert "remedies\tpaused by page" in completed.stdout
    assert (others.returncode, others.stderr.count("\n")) == (1, 1)
    assert "refuses: expected a credential" in others.stderr


def test_a_broken_journal_costs_no_more_than_itself(tmp_path: Path, open_view: OpenView) -> None:
    """Where the audit cannot be read the page and `top` say so there, and show all the rest."""
    scene = _build_scene(tmp_path)
    (tmp_path / "state").mkdir(mode=0o700)
    journal = state_dir_of_root(tmp_path / "state", str(scene.root)) / "journal.db"
    journal.parent.mkdir(mode=0o700)
    journal.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with scene.run_agent():
        page = open_view(scene.url).open()
        expect(page.locator("#acts")).to_contain_text("cannot be read")
        wait_until(page, lambda: read_value(page, "heat", "4-0051") == "83.5", "the rest is drawn")
        command = [sys.executable, "-m", "agent", "top", "--once", "--url", scene.url]
        completed = subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert completed.returncode == 0
    assert "hottest dimm: 4-0051\t83.5 °C" in completed.stdout
    assert re.search(r"^audit\t.*cannot be read", completed.stdout, re.MULTILINE)


def test_without_scripts_it_says_where_else_to_look(scene: Scene, open_view: OpenView) -> None:
    """A browser that runs none is sent to /metrics and to the terminal."""
    looking = open_view(scene.url, java_script_enabled=False)
    looking.page.goto(scene.url)

    expect(looking.page.locator("#scriptless")).to_contain_text("steadytok top")
