"""The search of the pages in a real browser, as a reader has it who opens build/site from the disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.deep.browsers import SCREENSHOTS, open_browser
from tests.docs.pages import HOUSE

pytestmark = [pytest.mark.deep, pytest.mark.timeout(120)]

SOON = 15_000  # ms
RESULTS = "#mkdocs-search-results article a"


@pytest.fixture(scope="module", name="site")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    arguments = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(arguments, cwd=HOUSE, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("TLS", "authentication.html"),
        ("webhook", "notifications.html"),
        ("Kubernetes", "kubernetes.html"),
        ("exit code", "incidents/exit-code-9.html"),
    ],
)
def test_it_finds_a_page_from_the_disk(site: Path, browser: Browser, words: str, page: str) -> None:
    """The box at the side of a page leads to results, of which one of the first five is the page on the subject."""
    reader = browser.new_page(viewport={"width": 1200, "height": 800})
    faults: list[str] = []
    reader.on("pageerror", lambda error: faults.append(str(error)))
    reader.goto((site / "reference" / "commands.html").as_uri())
    box = reader.get_by_role("search").get_by_role("textbox")
    box.fill(words)
    box.press("Enter")
    expect(reader.locator(RESULTS).first).to_be_visible(timeout=SOON)
    targets = [link.get_attribute("href") or "" for link in reader.locator(RESULTS).all()[:5]]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    reader.screenshot(path=SCREENSHOTS / f"search-{words.replace(' ', '-')}.png")

    assert any(page in target for target in targets), targets
    assert faults == []
    reader.locator(RESULTS).first.click()
    expect(reader.locator("h1").first).to_be_visible()
    reader.close()


def test_it_follows_what_is_typed(site: Path, browser: Browser) -> None:
    """On the page of results every letter asks anew; words that are nowhere find nothing, and the page says so."""
    reader = browser.new_page()
    reader.goto((site / "search.html").as_uri() + "?q=NodeNearlyFull")
    expect(reader.locator(RESULTS).first).to_be_visible(timeout=SOON)
    reader.locator("#mkdocs-search-query").fill("")
    reader.locator("#mkdocs-search-query").press_sequentially("zzyzx")

    expect(reader.locator("#mkdocs-search-results")).to_contain_text("No results found")
    reader.close()
