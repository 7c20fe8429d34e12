"""Fixtures of the web tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.web.served_api import ServedApi


@pytest.fixture(name="api")
def _api(tmp_path: Path) -> Iterator[ServedApi]:
    yield ServedApi(tmp_path)
