"""An open page of the agent in a browser: loads the page, reads values, and waits."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

SOON = 15_000  # ms: a round takes five seconds at most, and the machine may be busy


class PageView:
    """A page that is open, and what the browser had to say of it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.log_lines: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.log_lines.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.log_lines.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, minutes: int = 5) -> Page:
        """Loads it, and waits until it has drawn something."""
        self.page.goto(self.url)
        expect(self.page.locator("#verdict")).to_contain_text(re.compile("alert"), timeout=SOON)
        self.page.get_by_text(f"{minutes} min", exact=True).click()
        expect(self.page.locator("#cursor")).to_have_attribute(
            "aria-valuemax", str({5: 150, 15: 180}[minutes]), timeout=SOON
        )
        return self.page


def read_value(page: Page, strip: str, name: str) -> str:
    """Returns the value that a chart shows beside a name, that of the first line whose name contains it."""
    row = page.locator(f"#strip-{strip} .gutter li").filter(has_text=name).first
    return row.locator("b").inner_text() if row.count() else ""


def wait_until(page: Page, condition: Callable[[], bool], description: str) -> None:
    """Waits in the browser's time, so that it goes on drawing."""
    for _ in range(SOON // 200):
        if condition():
            return
        page.wait_for_timeout(200)
    pytest.fail(f"not within {SOON / 1000:g} s: {description}")
