"""Opens the journal: at the start, or later, once a fault in passing such as a full disk is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from agent.actions import ChangedError, FailedError, UnknownError
from agent.remediation.hand import WAKE_TIMEOUT, send_request
from agent.remediation.journal import Journal, JournalError, Timestamp
from agent.remediation.model import RemediationState
from agent.runtime.threads import run_in_thread

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 30.0


class JournalAccess:
    """The journal, or the reason why there is none."""

    def __init__(self, folder: Path, read_clock: Callable[[], Timestamp]) -> None:
        self.journal: Journal | None = None
        self.fault = ""
        self._folder = folder
        self._read_clock = read_clock
        self._log = structlog.get_logger()
        self._is_passing = False
        self._delay = FIRST_RETRY_SECONDS
        self._next_try = 0.0
        self._task: asyncio.Task[None] | None = None
        try:
            self.journal = Journal(folder, read_clock)
        except JournalError as error:
            self._report(error)

    def retry_if_due(self, now: float, adopt: Callable[[RemediationState], None]) -> None:
        """Tries again, in a thread; gives the state to `adopt` when the journal could be opened."""
        if self.journal is None and self._is_passing and self._task is None and now >= self._next_try:
            self._next_try = now + self._delay
            self._delay = min(2 * self._delay, LAST_RETRY_SECONDS)
            self._task = asyncio.get_running_loop().create_task(self._retry(adopt), name="open the journal")

    async def _retry(self, adopt: Callable[[RemediationState], None]) -> None:
        try:
            self.journal = await run_in_thread("open journal.db", lambda: Journal(self._folder, self._read_clock))
        except JournalError as error:
            self._report(error)
        else:
            self.fault = ""
            self._log.info("the journal can be used again; remedies act", file=str(self.journal.path))
            adopt(self.journal.state)
        finally:
            self._task = None

    def _report(self, error: JournalError) -> None:
        if str(error) != self.fault:
            self._log.error("no remedy acts", reason=str(error))
        self.fault, self._is_passing = str(error), error.is_passing

    def report_leases(self, hand_path: str) -> None:
        """Logs what the hand still holds, where the journal that would say so is lost. Leases end by themselves."""
        if self.journal is None and not self._is_passing:
            coroutine = run_in_thread("look at the hand's leases", lambda: self._log_leases(hand_path))
            self._task = asyncio.get_running_loop().create_task(coroutine, name="look at the hand's leases")

    def _log_leases(self, hand_path: str) -> None:
        try:
            leases = send_request(hand_path, "hello", {}, WAKE_TIMEOUT).get("leases")
        except (FailedError, UnknownError, ChangedError) as error:
            self._log.warning(
                "what the hand holds is not known either; its leases end by themselves", reason=str(error)
            )
        else:
            self._log.warning("the hand's leases, which end by themselves", leases=leases)
