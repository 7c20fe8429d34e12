"""Scrapes programs once a second as Prometheus does: gzip, open connections, and a different phase for each."""

from __future__ import annotations

import gzip
import http.client
import threading
import time
from collections.abc import Sequence

from bench.processes import Program

_HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
    "User-Agent": "Prometheus/2.53.0",
    "X-Prometheus-Scrape-Timeout-Seconds": "1",
}


class Scraper:
    """A thread that scrapes one program each second."""

    def __init__(self, program: Program, phase: float) -> None:
        self.scrapes = 0
        self.failures = 0
        self.series = 0
        self._program = program
        self._phase = phase
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"scrape {program.name}", daemon=True)

    def start(self, epoch: float) -> None:
        """Starts the thread; all scrapers share `epoch`, a time.monotonic(), so that their phases differ."""
        self._due_at = epoch + self._phase
        self._thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._program.port, timeout=5.0)
        while not self._stop_event.wait(max(0.0, self._due_at - time.monotonic())):
            self._due_at = max(self._due_at + 1.0, time.monotonic())
            try:
                self._scrape(connection)
            except (OSError, http.client.HTTPException):
                self.failures += 1
                connection.close()  # the next request reopens the connection
        connection.close()

    def _scrape(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", "/metrics", headers=_HEADERS)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"HTTP {response.status}")
        if response.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.series = sum(1 for line in body.splitlines() if line and not line.startswith(b"#"))
        self.scrapes += 1

    def close(self) -> None:
        """Stops after the current scrape."""
        self._stop_event.set()
        self._thread.join()


def start_scrapers(programs: Sequence[Program]) -> list[Scraper]:
    """Starts a scraper for each program, evenly spread over the second."""
    scrapers = [Scraper(program, index / len(programs)) for index, program in enumerate(programs)]
    epoch = time.monotonic()
    for scraper in scrapers:
        scraper.start(epoch)
    return scrapers
