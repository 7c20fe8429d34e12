"""
POST /api/v1/webhook/alertmanager: alerts of a fleet's Alertmanager, for the remedies that want them.

Payload version 4, with fields that we do not know; anything else is a 400, for Alertmanager does not try that again.
One odd alert costs no other of its group its remedy: whoever can add one to a group could else keep all of them back.
Everything in it is text that anybody may have written. What this agent told itself comes back as an echo and is
ignored: its remedies know already. https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from aiohttp import web

from agent.alerting import webhook_inbox as inbox
from agent.alerting.webhook_inbox import FullError, Inbox, Told
from agent.remediation.remediator import Remedies
from agent.web import prometheus_json
from agent.web.query_params import parse_time
from collectors import Labels
from rules.alerts import Alert

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PATH = "/api/v1/webhook/alertmanager"
OUTCOMES = ("taken", "repeated", "resolved", "unwanted", "echo", "refused")
RESERVED = "__"
MOST_LABELS = 64
LONGEST_VALUE = 1024

_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


class PostedAlert(msgspec.Struct):
    """One alert of a payload, as far as it is looked at."""

    status: Literal["firing", "resolved"]
    labels: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    startsAt: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT")]  # noqa: N815  Alertmanager's own spelling
    fingerprint: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{1,64}$")]
    generatorURL: str = ""  # noqa: N815  as above


class Payload(msgspec.Struct):
    """A webhook's payload, as far as it is looked at."""

    version: str
    alerts: Annotated[list[PostedAlert], msgspec.Meta(max_length=5000)]


@dataclass(frozen=True)
class Posted:
    """What the webhook needs of the agent; the functions are asked on the event loop."""

    remedies: Remedies
    inbox: Inbox
    alerts: Callable[[], Iterable[Alert]]
    """Those of our own rules."""
    external: Mapping[str, str]
    external_url: str
    now_ms: Callable[[], int]


class Webhook:
    """The endpoint."""

    def __init__(self, posted: Posted, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import Counter as Counted

        self._posted = posted
        self._generator = re.compile(re.escape(posted.external_url.rstrip("/")) + r"/graph\?.*", re.DOTALL)
        self._alerts = Counted("steadytok_webhook_alerts", "Alerts that were posted.", ["outcome"], registry=registry)
        self._bad = Counted("steadytok_webhook_rejected", "Posts that were not taken.", ["reason"], registry=registry)
        for outcome in OUTCOMES:
            self._alerts.labels(outcome)
        for reason in ("garbage", "full"):
            self._bad.labels(reason)

    def routes(self) -> list[web.RouteDef]:
        """The one route; whether whoever posts may is the door's to say."""
        return [web.post(PATH, self._take)]

    async def _take(self, request: web.Request) -> web.Response:
        try:
            payload = _decoded(await request.read())
            outcomes = await self._taken(payload)
        except ValueError as error:  # msgspec's and the times' own
            self._bad.labels("garbage").inc()
            return _answer(HTTPStatus.BAD_REQUEST, prometheus_json.failure("bad_data", str(error)))
        except FullError as error:
            self._bad.labels("full").inc()
            answer = _answer(HTTPStatus.SERVICE_UNAVAILABLE, prometheus_json.failure("unavailable", str(error)))
            answer.headers["Retry-After"] = "5"
            return answer
        for outcome, count in outcomes.items():
            self._alerts.labels(outcome).inc(count)
        return _answer(HTTPStatus.OK, prometheus_json.plain(dict(outcomes)))

    async def _taken(self, payload: Payload) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        wanted = []
        for posted in payload.alerts:
            told = _told(posted)
            if told is None:
                outcomes["refused"] += 1
            elif self._is_echo(posted, told.labels):
                outcomes["echo"] += 1
            elif self._posted.remedies.wants(inbox.alert(told)):
                wanted.append(told)
            else:
                outcomes["unwanted"] += 1
        outcomes.update(await self._posted.inbox.take(wanted, self._posted.now_ms()))
        return outcomes

    def _is_echo(self, posted: PostedAlert, labels: Labels) -> bool:
        external = self._posted.external
        if any(posted.labels.get(name) != value for name, value in external.items()):
            return False
        if self._generator.fullmatch(posted.generatorURL):
            return True
        own = ({**external, **dict(alert.labels)} for alert in self._posted.alerts() if alert.name)
        return any(dict(labels) == each for each in own)


def _decoded(body: bytes) -> Payload:
    try:
        payload = msgspec.json.decode(body, type=Payload)
    except msgspec.MsgspecError as error:
        raise ValueError(f"expected a webhook payload of Alertmanager: {error}") from error
    except RecursionError as error:
        raise ValueError("expected a webhook payload of Alertmanager: nested too deep") from error
    if payload.version != "4":
        raise ValueError(f'expected version "4" of the payload, found {payload.version[:20]!r}')
    return payload


def _told(posted: PostedAlert) -> Told | None:
    """The alert; None where its labels are too many or too long, or no calendar has the day on which it began."""
    if len(posted.labels) > MOST_LABELS or not all(map(_is_sound, posted.labels, posted.labels.values())):
        return None
    try:
        starts_ms = parse_time(posted.startsAt)
    except ValueError:
        return None  # counted as refused; Go has a year 0
    # Reserved names are ours: what comes from outside must not say where it is from.
    labels = tuple(sorted((name, value) for name, value in posted.labels.items() if not name.startswith(RESERVED)))
    return Told(posted.fingerprint, starts_ms, posted.status == "firing", labels)


def _is_sound(name: str, value: str) -> bool:
    return _NAME.fullmatch(name) is not None and len(value) <= LONGEST_VALUE


def _answer(status: HTTPStatus, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")
