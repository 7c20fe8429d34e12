"""The page's files: how they are served, their size, and that they request nothing from other hosts."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Mapping
from urllib.parse import urljoin

import pytest

from agent.alerting.notifier import build_payload
from agent.web.pages import FOLDER, TYPES, StaticPages
from agent.web.server import WebServer
from rules.alerts import Alert, AlertState

NAMES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = [name for name in NAMES if name.endswith(".js")]
MOST = 100 * 1024  # bytes of a first visit, uncompressed


class Answer:
    """An HTTP answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


def get(path: str, **headers: str) -> Answer:
    """Sends one GET over the wire, without decompression and with the address unchanged."""
    return asyncio.run(_get(path, {name.replace("_", "-"): value for name, value in headers.items()}))


async def _get(path: str, headers: Mapping[str, str]) -> Answer:
    server = WebServer(
        metrics=lambda: bytes, tick_number=int, since_tick=lambda: None, interval=1.0, routes=StaticPages().routes()
    )
    port = await server.start("127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        header_lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{header_lines}Connection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
    finally:
        await server.close()
    first, *lines = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), {name.lower(): value for name, value in pairs}, body)


def read_text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_served_as_what_it_is(name: str) -> None:
    """A file comes with its bytes, its type, and the order to revalidate it."""
    answer = get("/" if name == "index.html" else f"/static/{name}")

    assert (answer.status, answer.body) == (200, (FOLDER / name).read_bytes())
    assert answer.headers["content-type"] == TYPES[name[name.rindex(".") :]]
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("outside", ["http://box:9817", "https://fleet.example/agents/box", "https://fleet.example/a/"])
def test_the_link_of_an_alert_leads_to_the_page(outside: str) -> None:
    """The link works through a proxy that adds and removes a prefix too."""
    alert = Alert("Hot", (), (), AlertState.FIRING, 1.0, active_at_ms=0, expr='up{a="b"} == 1', interval_ms=1000)
    link = build_payload(alert, 0, 60_000, {}, outside)["generatorURL"]
    answer = get(link.removeprefix(outside.rstrip("/")))

    assert (answer.status, answer.body) == (302, b"")
    assert urljoin(link, answer.headers["location"]) == f"{outside.rstrip('/')}/"


def test_what_the_browser_has_is_not_sent_again() -> None:
    """With the current tag the answer is an empty 304; with another tag it is the file."""
    tag = get("/static/page.js").headers["etag"]
    again, other = get("/static/page.js", If_None_Match=f"W/{tag}"), get("/static/page.js", If_None_Match='"old"')

    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert other.status == 200


def test_files_are_packed_for_whoever_takes_that() -> None:
    """A browser that accepts gzip gets the same bytes compressed."""
    answer = get("/static/strip.js", Accept_Encoding="br, gzip")

    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == (FOLDER / "strip.js").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/none.js",
        "/static/index.html",
        "/static/../pages.py",
        "/static/%2e%2e/pages.py",
        "/static/..%2fpages.py",
        "/static//etc/passwd",
        "/static/page.js/",
        "/static/page.js%00",
    ],
)
def test_nothing_else_is_served(path: str) -> None:
    """Only the files that existed at the start are served; no path reaches the disk."""
    assert get(path).status == 404


def test_a_first_visit_is_small() -> None:
    """All files of the page together are below 100 KiB, and compressed below 30 KiB."""
    sizes = [(FOLDER / name).read_bytes() for name in NAMES]

    assert sum(map(len, sizes)) < MOST
    assert sum(len(gzip.compress(body)) for body in sizes) < 30 * 1024


@pytest.mark.parametrize("name", NAMES)
def test_no_file_asks_another_host(name: str) -> None:
    """A file has no absolute address, except for SVG's namespace and a test for links."""
    content = read_text(name).replace("http://www.w3.org/2000/svg", "")

    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", content) == []
    assert re.findall(r"@import|url\((?!#)", content) == []


def test_the_page_has_nothing_inline() -> None:
    """The markup has no script, style or handler: the policy would refuse them."""
    page = read_text("index.html")

    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page) == []
    assert re.findall(r'(?:href|src)="/', page) == [], "an absolute path would miss below a proxy's prefix"


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_text_of_what_they_are_told(name: str) -> None:
    """No script treats a label or an annotation as markup or code."""
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\(.(?:on|style)"

    assert re.findall(ways, read_text(name)) == []


def test_scripts_find_what_they_look_for() -> None:
    """Every imported name is exported by its module, and every element is in the page."""
    ids = set(re.findall(r'id="([\w-]+)"', read_text("index.html")))
    for name in SCRIPTS:
        for names, module in re.findall(r'import (?:\{([^}]*)\}|\* as \w+) from "\./([\w.]+)"', read_text(name)):
            exported = re.findall(r"export (?:async )?(?:function|const|class) (\w+)", read_text(module))
            assert {each.strip() for each in names.split(",") if each.strip()} <= set(exported), (name, module)
        element_ids = set(re.findall(r'\bat\("([\w-]+)"\)|getElementById\("([\w-]+)"\)', read_text(name)))
        assert {one or two for one, two in element_ids} <= ids, name
    assert {f"ask-{part}" for part in re.findall(r'part\("([\w-]+)"\)', read_text("permit.js"))} <= ids
