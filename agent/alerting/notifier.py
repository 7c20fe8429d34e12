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
import re
import urllib.parse
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from agent.alerting.alertmanagers import AlertmanagerDiscovery, AlertmanagerTarget, post_alerts
from agent.config.schema import AlertingConfig
from collectors import Labels
from rules.alerts import Alert, AlertState

if TYPE_CHECKING:
    import aiohttp
    from prometheus_client import CollectorRegistry

QUEUE = 10_000  # alerts held for one Alertmanager; the oldest go first, as in Prometheus
MAX_PER_TICK = QUEUE // 2  # alerts queued in one tick; the rest are due at the next, when some have been sent
BATCH = 256  # alerts in one request
DISCOVERY_INTERVAL = 5.0  # seconds between looks at files that name Alertmanagers
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
EXPIRY_DELAYS = 4  # resend delays until Alertmanager ends an alert that nobody tells it about any more


def needs_sending(alert: Alert, sent_ms: int | None, now_ms: int, resend_ms: int) -> bool:
    """Whether an alert is due: it fires or has resolved, and is new, newly resolved, or a resend delay old."""
    if alert.state is AlertState.PENDING:
        return False
    if sent_ms is None:
        return alert.state is AlertState.FIRING
    if alert.resolved_at_ms is not None and alert.resolved_at_ms > sent_ms:
        return True
    return sent_ms + resend_ms < now_ms


def build_payload(
    alert: Alert, now_ms: int, resend_ms: int, external_labels: Mapping[str, str], external_url: str
) -> dict[str, Any]:
    """An alert as POST /api/v2/alerts wants it; an external label gives way to the alert's own of that name."""
    ends_ms = alert.resolved_at_ms or now_ms + EXPIRY_DELAYS * max(alert.interval_ms, resend_ms)
    query = urllib.parse.urlencode({"g0.expr": alert.expr, "g0.tab": "1"})
    labels = {**external_labels, **dict(alert.labels)}
    return {
        # An empty label is none to Alertmanager, which would count it as part of the identity all the same.
        "labels": {name: _to_utf8(value) for name, value in labels.items() if value},
        "annotations": {name: _to_utf8(value) for name, value in alert.annotations},
        "startsAt": _format_rfc3339(alert.fired_at_ms or alert.active_at_ms),
        "endsAt": _format_rfc3339(ends_ms),
        "generatorURL": f"{external_url.rstrip('/')}/graph?{query}",
    }


def _to_utf8(value: str) -> str:
    """The same as UTF-8 can have it: bytes of a sensor's name that are no text would spoil the whole batch."""
    return value.encode("utf-8", "replace").decode("utf-8")


def find_fault(alert: Mapping[str, Any]) -> str:
    """Why Alertmanager would not take an alert, and with it the rest of its batch; empty where it would."""
    invalid = [name for name in (*alert["labels"], *alert["annotations"]) if not _LABEL_NAME.fullmatch(name)]
    if not alert["labels"] or invalid:
        return f"not names of labels: {', '.join(map(repr, invalid))}" if invalid else "it has no label"
    return "" if alert["endsAt"] >= alert["startsAt"] else "it ends before it starts"


def _format_rfc3339(at_ms: int) -> str:
    timestamp = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    return timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class NotifierCounters:
    """What the notifier counts about itself, under Prometheus' own words."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge, Summary, disable_created_metrics

        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, of no use here

        label_names = ["alertmanager"]
        name = "steadytok_notifications"
        self.sent = Counter(f"{name}_sent", "Alerts sent.", label_names, registry=registry)
        self.errors = Counter(f"{name}_errors", "Alerts that could not be sent.", label_names, registry=registry)
        self.dropped = Counter(f"{name}_dropped", "Alerts dropped from a full queue.", label_names, registry=registry)
        self.invalid = Counter(f"{name}_invalid", "Alerts that Alertmanager would not take.", registry=registry)
        self.discovered = Gauge(f"{name}_alertmanagers_discovered", "Alertmanagers told.", registry=registry)
        self.queue_length = Gauge(f"{name}_queue_length", "Alerts waiting to be sent.", label_names, registry=registry)
        self.latency = Summary(
            f"{name}_latency_seconds", "What a request took, also one that failed.", label_names, registry=registry
        )
        self._urls: frozenset[str] = frozenset()

    def set_targets(self, urls: Collection[str]) -> None:
        """Starts a newcomer's at 0, so that its first increase is seen; one that has gone leaves no queue behind."""
        for metric in (self.sent, self.errors, self.dropped, self.queue_length, self.latency):
            for url in self._urls.difference(urls):
                metric.remove(url)
            for url in urls:
                metric.labels(url)
        self._urls = frozenset(urls)
        self.discovered.set(len(urls))


class Sender:
    """The queue and the loop for one Alertmanager."""

    def __init__(self, target: AlertmanagerTarget, session: aiohttp.ClientSession, counters: NotifierCounters) -> None:
        self._target = target
        self._session = session
        self._counters = counters
        self._queue: deque[dict[str, Any]] = deque()
        self._wakeup = asyncio.Event()
        self._is_failing = False
        self._is_sending = False
        self._log = structlog.get_logger().bind(alertmanager=target.url)
        self._task = asyncio.get_running_loop().create_task(self._send_for_ever(), name=f"notify {target.url}")

    def enqueue(self, alerts: Iterable[dict[str, Any]]) -> None:
        """Queues alerts; a full queue loses its oldest."""
        for alert in alerts:
            if len(self._queue) >= QUEUE:
                self._queue.popleft()
                self._counters.dropped.labels(self._target.url).inc()
            self._queue.append(alert)
        self._counters.queue_length.labels(self._target.url).set(len(self._queue))
        self._wakeup.set()

    async def _send_for_ever(self) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                self._counters.queue_length.labels(self._target.url).set(len(self._queue))
                self._is_sending = True
                await self._send(batch)
                self._is_sending = False

    async def _send(self, batch: list[dict[str, Any]]) -> None:
        with self._counters.latency.labels(self._target.url).time():
            fault = await post_alerts(self._session, self._target, batch)
        if fault is not None and fault.is_permanent and len(batch) > 1:
            # One alert spoils it; the others go on in halves. What a 400 has taken already does no harm twice.
            await self._send(batch[: len(batch) // 2])
            await self._send(batch[len(batch) // 2 :])
            return
        (self._counters.errors if fault else self._counters.sent).labels(self._target.url).inc(len(batch))
        if fault is not None and fault.is_permanent:
            name = batch[0]["labels"].get("alertname")
            self._log.error("an alert is not taken as it is", reason=fault.reason, alert=name)
            return
        if fault and not self._is_failing:
            self._log.warning("alerts cannot be sent; the next resend tries again", reason=fault.reason)
        elif self._is_failing and not fault:
            self._log.info("alerts are sent again", alerts=len(batch))
        self._is_failing = fault is not None

    async def close(self) -> None:
        """Ends the loop once the queue is empty or a second has passed; nothing is resolved by our leaving."""
        with contextlib.suppress(TimeoutError):  # the second is over; what is left is told again at the next start
            async with asyncio.timeout(1.0):
                while self._queue or self._is_sending:
                    await asyncio.sleep(0.02)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)  # ends by being cancelled


class Notifier:
    """Decides what is due, and gives it to every sender."""

    def __init__(
        self,
        alerting: AlertingConfig,
        external_labels: Mapping[str, str],
        external_url: str,
        counters: NotifierCounters,
    ) -> None:
        self._resend_ms = round(alerting.resend_delay * 1000)
        self._alerting = alerting
        self._external_labels = external_labels
        self._external_url = external_url
        self._counters = counters
        self._log = structlog.get_logger()
        self._last_sent_ms: dict[Any, int] = {}
        self._senders: dict[AlertmanagerTarget, Sender] = {}
        self._discovery: AlertmanagerDiscovery | None = None
        self._update_task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    def take_over(self, previous: Notifier) -> None:
        """Goes on where another left off: what it has told is not told again, and what it told gets its end."""
        self._last_sent_ms = dict(previous._last_sent_ms)

    @property
    def last_sent_ms(self) -> Mapping[Labels, int]:
        """When each living alert was last queued, in ms."""
        return self._last_sent_ms

    def restore(self, last_sent_ms: Mapping[Labels, int]) -> None:
        """Goes on where the process before left off."""
        self._last_sent_ms = dict(last_sent_ms)

    async def start(self) -> None:
        """Opens a sender for each Alertmanager, and looks for others where files name them."""
        import aiohttp

        if not self._alerting.alertmanagers:
            self._counters.set_targets(())
            return
        self._session = aiohttp.ClientSession(trust_env=False)
        self._discovery = AlertmanagerDiscovery(self._alerting.alertmanagers)
        await self._update_targets()
        if self._discovery.has_files:
            self._update_task = asyncio.get_running_loop().create_task(
                self._update_targets_for_ever(), name="alertmanagers"
            )

    async def _update_targets_for_ever(self) -> None:
        while True:
            await asyncio.sleep(DISCOVERY_INTERVAL)
            await self._update_targets()

    async def _update_targets(self) -> None:
        assert self._discovery is not None and self._session is not None
        targets = self._discovery.list_targets()
        removed = [sender for target, sender in self._senders.items() if target not in targets]
        # A newcomer learns of what fires at the next resend, as it would of us after a restart of its own.
        added = [target for target in targets if target not in self._senders]
        senders = self._senders | {target: Sender(target, self._session, self._counters) for target in added}
        self._senders = {target: sender for target, sender in senders.items() if target in targets}
        await asyncio.gather(*(sender.close() for sender in removed))
        self._counters.set_targets({target.url for target in targets})

    def enqueue_due(self, alerts: Iterable[Alert], now_ms: int) -> int:
        """Queues every alert that is due; returns how many."""
        if not self._senders:
            return 0
        living_alerts = {alert.labels: alert for alert in alerts}
        self._last_sent_ms = {
            labels: sent_ms for labels, sent_ms in self._last_sent_ms.items() if labels in living_alerts
        }
        due = [
            alert
            for labels, alert in living_alerts.items()
            if needs_sending(alert, self._last_sent_ms.get(labels), now_ms, self._resend_ms)
        ]
        due = due[:MAX_PER_TICK]
        payloads = (
            build_payload(alert, now_ms, self._resend_ms, self._external_labels, self._external_url) for alert in due
        )
        batch = [alert for alert in payloads if self._is_valid(alert)]
        self._last_sent_ms.update(dict.fromkeys((alert.labels for alert in due), now_ms))
        if batch:
            for sender in self._senders.values():
                sender.enqueue(batch)
        return len(batch)

    def _is_valid(self, alert: dict[str, Any]) -> bool:
        reason = find_fault(alert)
        if reason:
            self._counters.invalid.inc()
            self._log.error("an alert cannot be sent", reason=reason, alert=alert["labels"].get("alertname"))
        return not reason

    def shift(self, delta_ms: int) -> None:
        """Moves the times of sending with the wall clock."""
        self._last_sent_ms = {labels: sent_ms + delta_ms for labels, sent_ms in self._last_sent_ms.items()}

    async def close(self) -> None:
        """Sends what is queued and leaves; no alert is resolved because we go."""
        if self._update_task is not None:
            self._update_task.cancel()
        await asyncio.gather(*(sender.close() for sender in self._senders.values()))
        if self._session is not None:
            await self._session.close()
