"""
Tells Alertmanager, and keeps telling it while the alert lives.

What is sent when is Prometheus' own: firing alerts every resend delay, resolved ones for a quarter of an hour, `endsAt`
four delays ahead so that a dead agent's alerts end by themselves. One queue and one loop for each Alertmanager, every
alert to all of them, no retry: the next resend repairs a lost batch.
https://github.com/prometheus/prometheus/blob/main/rules/alerting.go, notifier/sendloop.go
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import urllib.parse
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from agent.settings import Alerting
from collectors import Labels
from rules.alerts import Alert, AlertState

if TYPE_CHECKING:
    import aiohttp
    from prometheus_client import CollectorRegistry

QUEUE = 10_000  # alerts held for one Alertmanager; the oldest go first, as in Prometheus
BATCH = 256  # alerts in one request
PATIENCE = 4  # resend delays until Alertmanager ends an alert that nobody tells it about any more


def needs_sending(alert: Alert, sent_ms: int | None, now_ms: int, resend_ms: int) -> bool:
    """Whether an alert is due: it fires or has resolved, and is new, newly resolved, or a resend delay old."""
    if alert.state is AlertState.PENDING:
        return False
    if sent_ms is None:
        return alert.state is AlertState.FIRING
    if alert.resolved_at_ms is not None and alert.resolved_at_ms > sent_ms:
        return True
    return sent_ms + resend_ms < now_ms


def payload(
    alert: Alert, now_ms: int, resend_ms: int, external: Mapping[str, str], external_url: str
) -> dict[str, Any]:
    """An alert as POST /api/v2/alerts wants it; an external label gives way to the alert's own of that name."""
    ends_ms = alert.resolved_at_ms or now_ms + PATIENCE * max(alert.interval_ms, resend_ms)
    query = urllib.parse.urlencode({"g0.expr": alert.expr, "g0.tab": "1"})
    return {
        "labels": {**external, **dict(alert.labels)},
        "annotations": dict(alert.annotations),
        "startsAt": _rfc3339(alert.fired_at_ms or alert.active_at_ms),
        "endsAt": _rfc3339(ends_ms),
        "generatorURL": f"{external_url.rstrip('/')}/graph?{query}",
    }


def _rfc3339(at_ms: int) -> str:
    moment = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Counters:
    """What the notifier counts about itself, under Prometheus' own words."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge, disable_created_metrics

        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, of no use here

        where = ["alertmanager"]
        name = "steadytok_notifications"
        self.sent = Counter(f"{name}_sent", "Alerts sent.", where, registry=registry)
        self.errors = Counter(f"{name}_errors", "Alerts that could not be sent.", where, registry=registry)
        self.dropped = Counter(f"{name}_dropped", "Alerts dropped from a full queue.", where, registry=registry)
        self.waiting = Gauge(f"{name}_queue_length", "Alerts waiting to be sent.", where, registry=registry)

    def born(self, url: str) -> None:
        """Starts every counter of an Alertmanager at 0, so that its first increase is seen."""
        for metric in (self.sent, self.errors, self.dropped, self.waiting):
            metric.labels(url)


class Target(NamedTuple):
    """One Alertmanager."""

    url: str
    timeout: float


def targets(alerting: Alerting) -> list[Target]:
    """Every Alertmanager of the configuration, with the path of its API."""
    return [
        Target(f"{group.scheme}://{address}{group.path_prefix.rstrip('/')}/api/v2/alerts", group.timeout)
        for group in alerting.alertmanagers
        for static in group.static_configs
        for address in static.targets
    ]


class Sender:
    """The queue and the loop for one Alertmanager."""

    def __init__(self, target: Target, session: aiohttp.ClientSession, counters: Counters) -> None:
        self._target = target
        self._session = session
        self._counters = counters
        self._queue: deque[dict[str, Any]] = deque()
        self._more = asyncio.Event()
        self._failing = False
        self._sending = False
        self._log = structlog.get_logger().bind(alertmanager=target.url)
        counters.born(target.url)
        self._task = asyncio.get_running_loop().create_task(self._send_for_ever(), name=f"notify {target.url}")

    def put(self, alerts: Iterable[dict[str, Any]]) -> None:
        """Queues alerts; a full queue loses its oldest."""
        for alert in alerts:
            if len(self._queue) >= QUEUE:
                self._queue.popleft()
                self._counters.dropped.labels(self._target.url).inc()
            self._queue.append(alert)
        self._counters.waiting.labels(self._target.url).set(len(self._queue))
        self._more.set()

    async def _send_for_ever(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                self._counters.waiting.labels(self._target.url).set(len(self._queue))
                self._sending = True
                await self._send(batch)
                self._sending = False

    async def _send(self, batch: list[dict[str, Any]]) -> None:
        fault = await post(self._session, self._target, batch)
        url, count = self._target.url, len(batch)
        (self._counters.errors if fault else self._counters.sent).labels(url).inc(count)
        if fault and not self._failing:
            self._log.warning("alerts cannot be sent; the next resend tries again", reason=fault, alerts=count)
        elif self._failing and not fault:
            self._log.info("alerts are sent again", alerts=count)
        self._failing = fault is not None

    async def close(self) -> None:
        """Ends the loop once the queue is empty or a second has passed; nothing is resolved by our leaving."""
        with contextlib.suppress(TimeoutError):  # the second is over; what is left is told again at the next start
            async with asyncio.timeout(1.0):
                while self._queue or self._sending:
                    await asyncio.sleep(0.02)
        self._task.cancel()


async def post(session: aiohttp.ClientSession, target: Target, batch: list[dict[str, Any]]) -> str | None:
    """Sends one batch; None when it was taken, else why it was not."""
    import aiohttp

    try:
        async with session.post(target.url, json=batch, timeout=aiohttp.ClientTimeout(total=target.timeout)) as answer:
            if answer.status // 100 == 2:
                return None
            return f"HTTP {answer.status}: {(await answer.text(errors='replace'))[:200].strip()}"
    except TimeoutError:
        return f"no answer within {target.timeout:g} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:  # whatever one answer holds, the next batch is sent
        return str(error) or type(error).__name__


class Notifier:
    """Decides what is due, and gives it to every sender."""

    def __init__(self, alerting: Alerting, external: Mapping[str, str], external_url: str, counters: Counters) -> None:
        self._resend_ms = round(alerting.resend_delay * 1000)
        self._alerting = alerting
        self._external = external
        self._external_url = external_url
        self._counters = counters
        self._sent: dict[Any, int] = {}
        self._senders: list[Sender] = []
        self._session: aiohttp.ClientSession | None = None

    def take_over(self, other: Notifier) -> None:
        """Goes on where another left off: what it has told is not told again, and what it told gets its end."""
        self._sent = dict(other._sent)

    @property
    def sent(self) -> Mapping[Labels, int]:
        """When each living alert was last queued, in ms."""
        return self._sent

    def restore(self, sent: Mapping[Labels, int]) -> None:
        """Goes on where the process before left off."""
        self._sent = dict(sent)

    async def start(self) -> None:
        """Opens a sender for each Alertmanager."""
        import aiohttp

        wanted = targets(self._alerting)
        if wanted:
            self._session = aiohttp.ClientSession()
            self._senders = [Sender(target, self._session, self._counters) for target in wanted]

    def observe(self, alerts: Iterable[Alert], now_ms: int) -> int:
        """Queues every alert that is due; returns how many."""
        if not self._senders:
            return 0
        living = {alert.labels: alert for alert in alerts}
        self._sent = {labels: sent for labels, sent in self._sent.items() if labels in living}
        due = [
            alert
            for labels, alert in living.items()
            if needs_sending(alert, self._sent.get(labels), now_ms, self._resend_ms)
        ]
        batch = [payload(alert, now_ms, self._resend_ms, self._external, self._external_url) for alert in due]
        self._sent.update(dict.fromkeys((alert.labels for alert in due), now_ms))
        if batch:
            for sender in self._senders:
                sender.put(batch)
        return len(batch)

    def shift(self, delta_ms: int) -> None:
        """Moves the times of sending with the wall clock."""
        self._sent = {labels: sent + delta_ms for labels, sent in self._sent.items()}

    async def close(self) -> None:
        """Sends what is queued and leaves; no alert is resolved because we go."""
        await asyncio.gather(*(sender.close() for sender in self._senders))
        if self._session is not None:
            await self._session.close()
