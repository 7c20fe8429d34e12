"""
Polls the active silences of Alertmanager, for remedies that are configured to respect them.

Polls every POLL_INTERVAL seconds, so that no remedy has to wait for an answer. Alertmanagers gossip their silences, so
all are asked at once and the first answer counts. If none answers, nothing counts as silenced, and a warning is logged.
https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml, GET /silences
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import structlog

from agent.alerting.alertmanagers import AlertmanagerDiscovery, AlertmanagerTarget, prepare_request
from agent.alerting.identity import SOURCE
from agent.alerting.matchers import Op, build_matcher
from agent.config.schema import AlertingConfig
from agent.runtime.errors import describe_error
from agent.runtime.step_guard import StepGuard
from agent.runtime.threads import run_in_thread
from collectors import Labels
from rules.matchers import Matchers

if TYPE_CHECKING:
    from agent.runtime.http_client import HttpClient

POLL_INTERVAL = 15.0  # seconds
FIRST_ANSWER_TIMEOUT = 2.0  # seconds for the first answer; without it, remedies may start for silenced alerts
MAX_ANSWER_BYTES = 4 << 20  # longest accepted answer

_OPS: Mapping[tuple[bool, bool], Op] = {
    (False, True): "=",
    (False, False): "!=",
    (True, True): "=~",
    (True, False): "!~",
}


class _Matcher(msgspec.Struct):
    name: str
    value: str
    isRegex: bool = False  # noqa: N815  Alertmanager's own spelling
    isEqual: bool = True  # noqa: N815  as above


class _Status(msgspec.Struct):
    state: str


class _Silence(msgspec.Struct):
    status: _Status
    matchers: list[_Matcher]


class _NoAnswerError(Exception):
    """An Alertmanager did not answer with its silences."""


class Silences:
    """The active silences, as far as they are known."""

    def __init__(self, external_labels: Mapping[str, str]) -> None:
        self.is_known = True
        """False while no Alertmanager answers."""
        self._external_labels = external_labels
        self._active: tuple[Matchers, ...] = ()
        self._steps = StepGuard()
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    def is_silenced(self, labels: Labels) -> bool:
        """Returns True if a silence matches the alert, own or posted, with its labels as Alertmanager has them."""
        if not self._active:
            return False
        full_labels = {
            name: value for name, value in {**self._external_labels, **dict(labels)}.items() if name != SOURCE
        }
        return any(
            all(matcher.test(full_labels.get(matcher.label, "")) for matcher in matchers) for matchers in self._active
        )

    async def configure(self, alerting: AlertingConfig, is_enabled: bool) -> None:
        """Polls these Alertmanagers from now on, or none; the first call waits briefly for an answer."""
        is_first = self._task is None
        await self.close()
        if not is_enabled:
            self._active, self.is_known = (), True
            return
        # The known silences stay active until the new Alertmanagers have answered or all have failed.
        answered = asyncio.Event()
        polling = self._poll_for_ever(AlertmanagerDiscovery(alerting.alertmanagers), answered)
        self._task = asyncio.get_running_loop().create_task(polling, name="silences")
        if is_first:
            try:
                await asyncio.wait_for(answered.wait(), FIRST_ANSWER_TIMEOUT)
            except TimeoutError:
                self._mark_unknown([f"no answer within {FIRST_ANSWER_TIMEOUT:g} s"])

    async def close(self) -> None:
        """Stops polling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _poll_for_ever(self, discovery: AlertmanagerDiscovery, answered: asyncio.Event) -> None:
        from agent.runtime.http_client import HttpClient

        client = HttpClient(limit=MAX_ANSWER_BYTES, timeout=POLL_INTERVAL)
        async with contextlib.aclosing(client):
            while True:
                with self._steps.guard("poll silences"):
                    await self._poll(client, await run_in_thread("list alertmanagers", discovery.list_targets))
                answered.set()
                await asyncio.sleep(POLL_INTERVAL)

    async def _poll(self, client: HttpClient, targets: list[AlertmanagerTarget]) -> None:
        requests = [asyncio.ensure_future(_fetch_silences(client, target)) for target in targets]
        reasons = [] if targets else ["no Alertmanager is configured"]
        try:
            for answer in asyncio.as_completed(requests):
                try:
                    self._active = await answer
                except _NoAnswerError as error:
                    reasons.append(str(error))
                    continue
                if not self.is_known:
                    self._log.info("silences can be fetched again")
                self.is_known = True
                return
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)  # the reasons of the other failures are not needed
        self._mark_unknown(reasons)

    def _mark_unknown(self, reasons: list[str]) -> None:
        if self.is_known:
            self._log.warning("silences cannot be fetched; remedies act as if there were none", reasons=reasons)
        self._active, self.is_known = (), False


async def _fetch_silences(client: HttpClient, target: AlertmanagerTarget) -> tuple[Matchers, ...]:
    """Fetches the active silences of one Alertmanager; raises _NoAnswerError with its address and the reason."""
    try:
        answer = await client.exchange("GET", f"{target.root}/api/v2/silences", **await prepare_request(target))
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}")
        return _parse_active(answer.body)
    except (OSError, ValueError) as error:
        raise _NoAnswerError(f"{target.root}: {describe_error(error)}") from error


def _parse_active(body: bytes) -> tuple[Matchers, ...]:
    """Parses the matchers of the active silences; raises ValueError for an invalid answer."""
    from agent.runtime.http_client import decode_json

    silences = decode_json(body, list[_Silence])
    active = [silence for silence in silences if silence.status.state == "active" and silence.matchers]
    return tuple(
        tuple(
            build_matcher(matcher.name, _OPS[matcher.isRegex, matcher.isEqual], matcher.value)
            for matcher in silence.matchers
        )
        for silence in active
    )
