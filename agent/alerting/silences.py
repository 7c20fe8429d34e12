"""
What operators have silenced in Alertmanager, for remedies that are told to honour it.

Asked every EVERY seconds, never while a remedy waits. Silences are gossiped among Alertmanagers, so all are asked at
once and the first that answers is enough; where none does, nothing counts as silenced, and that is said.
https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml, GET /silences
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
import structlog

from agent.alerting.alertmanagers import Discovery, Target, options
from agent.alerting.matchers import Op, sound
from agent.config.schema import Alerting
from agent.remediation.model import SOURCE
from collectors import Labels
from rules.history.selection import Matchers

if TYPE_CHECKING:
    import aiohttp

EVERY = 15.0  # seconds
PATIENCE = 2.0  # seconds for the first answer; until then a remedy would begin what is silenced
LARGEST = 4 << 20  # bytes of an answer

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
    """An Alertmanager did not say what it has silenced."""


class Silences:
    """The silences that are active, as far as they are known."""

    def __init__(self, external: Mapping[str, str]) -> None:
        self.known = True
        """False while no Alertmanager answers."""
        self._external = external
        self._active: tuple[Matchers, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    def silenced(self, labels: Labels) -> bool:
        """Whether an alert of ours, or a posted one, is silenced, with its labels as Alertmanager has them."""
        if not self._active:
            return False
        told = {name: value for name, value in {**self._external, **dict(labels)}.items() if name != SOURCE}
        return any(all(matcher.test(told.get(matcher.label, "")) for matcher in each) for each in self._active)

    async def replace(self, alerting: Alerting, wanted: bool) -> None:
        """Asks these Alertmanagers from now on, or none; at first their answer is waited for, a little."""
        first = self._task is None
        await self.close()
        if not wanted:
            self._active, self.known = (), True
            return
        # What is silenced stays so until these have answered, or none of them does.
        answered = asyncio.Event()
        asking = self._ask_for_ever(Discovery(alerting.alertmanagers), answered)
        self._task = asyncio.get_running_loop().create_task(asking, name="silences")
        if first:
            try:
                await asyncio.wait_for(answered.wait(), PATIENCE)
            except TimeoutError:
                self._forget([f"no answer within {PATIENCE:g} s"])

    async def close(self) -> None:
        """Asks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _ask_for_ever(self, discovery: Discovery, answered: asyncio.Event) -> None:
        import aiohttp

        async with aiohttp.ClientSession(trust_env=False) as session:
            while True:
                await self._ask(session, discovery.targets())
                answered.set()
                await asyncio.sleep(EVERY)

    async def _ask(self, session: aiohttp.ClientSession, targets: list[Target]) -> None:
        questions = [asyncio.ensure_future(_told(session, target)) for target in targets]
        reasons = [] if targets else ["no Alertmanager is configured"]
        try:
            for answer in asyncio.as_completed(questions):
                try:
                    self._active = await answer
                except _NoAnswerError as error:
                    reasons.append(str(error))
                    continue
                if not self.known:
                    self._log.info("silences are known again")
                self.known = True
                return
        finally:
            for question in questions:
                question.cancel()
            await asyncio.gather(*questions, return_exceptions=True)  # why the others failed does not matter
        self._forget(reasons)

    def _forget(self, reasons: list[str]) -> None:
        if self.known:
            self._log.warning("silences cannot be asked for; remedies act as if there were none", reasons=reasons)
        self._active, self.known = (), False


async def _told(session: aiohttp.ClientSession, target: Target) -> tuple[Matchers, ...]:
    """What one Alertmanager has silenced; _NoAnswerError with its address and the reason."""
    try:
        return _active(await _asked(session, target))
    except (OSError, ValueError, TimeoutError) as error:  # aiohttp's own are OSErrors, or made to be
        raise _NoAnswerError(f"{target.root}: {str(error) or type(error).__name__}") from error


async def _asked(session: aiohttp.ClientSession, target: Target) -> bytes:
    import aiohttp

    try:
        async with session.get(f"{target.root}/api/v2/silences", **options(target)) as answer:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}")
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > LARGEST:
                    raise ValueError(f"an answer of more than {LARGEST} bytes")
            return bytes(body)
    except aiohttp.ClientError as error:
        raise OSError(str(error) or type(error).__name__) from error


def _active(body: bytes) -> tuple[Matchers, ...]:
    """The matchers of the silences that are active; ValueError where it is no such answer."""
    silences = msgspec.json.decode(body, type=list[_Silence])
    active = [silence for silence in silences if silence.status.state == "active" and silence.matchers]
    return tuple(
        tuple(sound(told.name, _OPS[told.isRegex, told.isEqual], told.value) for told in silence.matchers)
        for silence in active
    )
