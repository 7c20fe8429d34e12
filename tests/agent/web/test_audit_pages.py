"""The audit over HTTP: pages of bounded length, read in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from agent.remediation import journal
from agent.remediation.model import AuditEntry, RemediationState
from agent.web.remedies_api import MAX_PAGE, PATH, RemediesApi
from agent.web.server import WebServer

LINES = 2_500


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder whose audit has LINES lines."""
    folder = tmp_path_factory.mktemp("state")
    committed = threading.Event()
    log = journal.Journal(folder, lambda: journal.take_timestamp(1_700_000_000_000))
    entries = [
        AuditEntry(number, "cool", (("alertname", "Hot"),), "", "did", f"line {number}") for number in range(LINES)
    ]
    log.commit(RemediationState(), entries, lambda fault: committed.set())
    assert committed.wait(30)
    log.close()
    return folder


def ask(folder: Path, *queries: str) -> list[tuple[int, Any]]:
    """Returns the status and the JSON of the answer to each query."""

    async def serve_and_ask() -> list[tuple[int, Any]]:
        remedies: Any = SimpleNamespace(
            context=SimpleNamespace(folder=folder), state=RemediationState(), settings=None, halted=""
        )
        routes = RemediesApi(remedies, lambda: 0, int).routes()
        server = WebServer(metrics=lambda: bytes, tick_number=int, since_tick=lambda: None, interval=1.0, routes=routes)
        port = await server.start("127.0.0.1", 0)
        answers = []
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            for query in queries:
                async with client.get(f"{PATH}/audit?{query}") as answer:
                    answers.append((answer.status, json.loads(await answer.read())))
        await server.close()
        return answers

    return asyncio.run(serve_and_ask())


def read_pages(folder: Path, limit: int) -> Iterator[list[dict[str, Any]]]:
    before = ""
    while True:
        ((status, page),) = ask(folder, f"limit={limit}{before}")
        assert status == 200
        if not page:
            return
        yield page
        before = f"&before={page[0]['id']}"


def test_pages_make_up_the_whole_audit(folder: Path) -> None:
    """Each page is asked for with the `id` of the oldest line of the one before; no line is missing or doubled."""
    pages = list(read_pages(folder, MAX_PAGE))

    assert [len(page) for page in pages] == [1000, 1000, 500]
    says = [line["says"] for page in reversed(pages) for line in page]
    assert says == [f"line {number}" for number in range(LINES)]


def test_without_parameters_the_newest_lines_come(folder: Path) -> None:
    """The newest hundred, oldest first, each with its labels as an object."""
    ((status, page),) = ask(folder, "")

    assert (status, len(page), page[-1]["says"], page[-1]["labels"]) == (
        200,
        100,
        f"line {LINES - 1}",
        {"alertname": "Hot"},
    )


@pytest.mark.parametrize(
    "query", ["limit=1001", "limit=100000", "limit=0", "limit=x", "before=0", "before=" + "9" * 40]
)
def test_no_answer_is_longer_than_a_page(folder: Path, query: str) -> None:
    """100,000 lines in one answer made the agent 500 MB large and its ticks 4 s late: the refusal names the way."""
    ((status, answer),) = ask(folder, query)

    assert status == 400
    assert answer["error"].startswith(f"{query.partition('=')[0]}: expected 1 to ")


def test_a_journal_that_cannot_be_read_is_a_503(tmp_path: Path) -> None:
    """The reason is in the answer."""
    (tmp_path / journal.FILE).write_bytes(b"not a database" * 100)
    ((status, answer),) = ask(tmp_path, "")

    assert status == 503
    assert "cannot be read" in answer["error"]
