"""Debian's chromium, as the tests of pages start it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests import processes

SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser that is closed with the block."""
    chromium = processes.require_program("chromium")
    # Its sandbox cannot be had by root, which CI is.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()
