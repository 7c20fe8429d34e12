"""
Sends alerts to Alertmanager, and repeats them while they live.

The times are Prometheus' own. Firing alerts are sent every resend delay and resolved ones for a quarter of an hour.
`endsAt` is four delays ahead, so the alerts of a dead agent expire. Each Alertmanager has a queue and a loop, and
receives every alert. A lost batch is not retried: the next resend repairs it.
https://github.com/prometheus/prometheus/blob/main/rules/alerting.go, notifier/sendloop.go
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import urllib.parse
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from agent.alerting.alertmanagers import AlertmanagerDiscovery, AlertmanagerTarget, post_alerts
from agent.config.schema import AlertingConfig
from agent.runtime.step_guard import StepGuard
from agent.runtime.threads import run_in_thread
from collectors import Labels
from rules.alerts import Alert, AlertState
from rules.matchers import is_valid_name

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from agent.runtime.http_client import HttpClient

QUEUE = 10_000  # alerts queued for one Alertmanager; the oldest are dropped first, as in Prometheus
MAX_PER_TICK = QUEUE // 2  # alerts queued in one tick; the others are due at the next tick, when the queue is shorter
BATCH = 256  # alerts in one request
DISCOVERY_INTERVAL = 5.0  # seconds between checks of the files that list Alertmanagers
MAX_ANSWER_BYTES = 1 << 20  # bytes of an answer, which Alertmanager leaves empty
REQUEST_TIMEOUT = 10.0  # seconds, where a group of Alertmanagers sets none
EXPIRY_DELAYS = 4  # resend delays until Alertmanager expires an alert that is no longer sent


def needs_sending(alert: Alert, sent_ms: int | None, now_ms: int, resend_ms: int) -> bool:
    """Returns True for a firing or resolved alert that is new, newly resolved, or was last sent a resend delay ago."""
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
    """Builds the JSON for POST /api/v2/alerts; the alert's own labels override external ones of the same name."""
    ends_ms = alert.resolved_at_ms or now_ms + EXPIRY_DELAYS * max(alert.interval_ms, resend_ms)
    query = urllib.parse.urlencode({"g0.expr": alert.expr, "g0.tab": "1"})
    labels = {**external_labels, **dict(alert.labels)}
    return {
        # Alertmanager ignores empty labels but counts them as part of the alert's identity.
        "labels": {name: _to_utf8(value) for name, value in labels.items() if value},
        "annotations": {name: _to_utf8(value) for name, value in alert.annotations},
        "startsAt": _format_rfc3339(alert.fired_at_ms or alert.active_at_ms),
        "endsAt": _format_rfc3339(ends_ms),
        "generatorURL": f"{external_url.rstrip('/')}/graph?{query}",
    }


def _to_utf8(value: str) -> str:
    """Replaces what UTF-8 cannot encode: undecodable bytes of a sensor's name would fail the whole batch."""
    return value.encode("utf-8", "replace").decode("utf-8")


def find_fault(alert: Mapping[str, Any]) -> str:
    """Returns why Alertmanager would reject the alert and with it the batch; empty if it would accept it."""
    invalid = [name for name in (*alert["labels"], *alert["annotations"]) if not is_valid_name(name)]
    if not alert["labels"] or invalid:
        return f"invalid label names: {', '.join(map(repr, invalid))}" if invalid else "it has no label"
    return "" if alert["endsAt"] >= alert["startsAt"] else "it ends before it starts"


def _format_rfc3339(at_ms: int) -> str:
    timestamp = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    return timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class NotifierCounters:
    """The notifier's own metrics, named as in Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge, Summary, disable_created_metrics

        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, of no use here

        label_names = ["alertmanager"]
        name = "steadytok_notifications"
        self.sent = Counter(f"{name}_sent", "Alerts sent.", label_names, registry=registry)
        self.errors = Counter(f"{name}_errors", "Alerts that could not be sent.", label_names, registry=registry)
        self.dropped = Counter(f"{name}_dropped", "Alerts dropped from a full queue.", label_names, registry=registry)
        self.invalid = Counter(f"{name}_invalid", "Alerts that Alertmanager would reject.", registry=registry)
        self.discovered = Gauge(f"{name}_alertmanagers_discovered", "Alertmanagers discovered.", registry=registry)
        self.queue_length = Gauge(f"{name}_queue_length", "Alerts waiting to be sent.", label_names, registry=registry)
        self.latency = Summary(
            f"{name}_latency_seconds", "Duration of requests, including failed ones.", label_names, registry=registry
        )
        self._urls: frozenset[str] = frozenset()

    def set_targets(self, urls: Collection[str]) -> None:
        """Starts the metrics of new Alertmanagers at 0, so that an increase is visible; removes those of gone ones."""
        for metric in (self.sent, self.errors, self.dropped, self.queue_length, self.latency):
            for url in self._urls.difference(urls):
                metric.remove(url)
            for url in urls:
                metric.labels(url)
        self._urls = frozenset(urls)
        self.discovered.set(len(urls))


class Sender:
    """The queue and the sending loop of one Alertmanager."""

    def __init__(self, target: AlertmanagerTarget, client: HttpClient, counters: NotifierCounters) -> None:
        self._target = target
        self._client = client
        self._counters = counters
        self._queue: deque[dict[str, Any]] = deque()
        self._steps = StepGuard()
        self._wakeup = asyncio.Event()
        self._is_failing = False
        self._is_sending = False
        self._log = structlog.get_logger().bind(alertmanager=target.url)
        self._task = asyncio.get_running_loop().create_task(self._send_for_ever(), name=f"notify {target.url}")

    def enqueue(self, alerts: Iterable[dict[str, Any]]) -> None:
        """Queues alerts; a full queue drops its oldest."""
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
                with self._steps.guard("send alerts", self._target.root):  # the next batch has its own chance
                    await self._send(batch)
                self._is_sending = False

    async def _send(self, batch: list[dict[str, Any]]) -> None:
        with self._counters.latency.labels(self._target.url).time():
            fault = await post_alerts(self._client, self._target, batch)
        if fault is not None and fault.is_permanent and len(batch) > 1:
            # One alert makes the batch fail: the halves are sent separately. Sending accepted alerts twice does no
            # harm.
            await self._send(batch[: len(batch) // 2])
            await self._send(batch[len(batch) // 2 :])
            return
        (self._counters.errors if fault else self._counters.sent).labels(self._target.url).inc(len(batch))
        if fault is not None and fault.is_permanent:
            name = batch[0]["labels"].get("alertname")
            self._log.error("an alert was rejected", reason=fault.reason, alert=name)
            return
        if fault and not self._is_failing:
            self._log.warning("alerts cannot be sent; the next resend tries again", reason=fault.reason)
        elif self._is_failing and not fault:
            self._log.info("alerts are sent again", alerts=len(batch))
        self._is_failing = fault is not None

    async def close(self) -> None:
        """Waits up to a second for the queue to empty, then stops the loop; no alert is resolved."""
        with contextlib.suppress(TimeoutError):  # the second is over; the next start sends the rest again
            async with asyncio.timeout(1.0):
                while self._queue or self._is_sending:
                    await asyncio.sleep(0.02)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)  # raises CancelledError


class Notifier:
    """Selects the alerts that are due, and queues them at every sender."""

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
        self._steps = StepGuard()
        self._last_sent_ms: dict[Any, int] = {}
        self._senders: dict[AlertmanagerTarget, Sender] = {}
        self._discovery: AlertmanagerDiscovery | None = None
        self._update_task: asyncio.Task[None] | None = None
        self._client: HttpClient | None = None

    def take_over(self, previous: Notifier) -> None:
        """Continues for a previous notifier: its alerts are not sent anew, but they are resolved when they end."""
        self._last_sent_ms = dict(previous._last_sent_ms)

    @property
    def last_sent_ms(self) -> Mapping[Labels, int]:
        """When each living alert was last queued, in Unix ms."""
        return self._last_sent_ms

    def restore(self, last_sent_ms: Mapping[Labels, int]) -> None:
        """Restores the times of the previous process."""
        self._last_sent_ms = dict(last_sent_ms)

    async def start(self) -> None:
        """Opens a sender for each Alertmanager, and watches the files that list further ones."""
        from agent.runtime.http_client import HttpClient

        if not self._alerting.alertmanagers:
            self._counters.set_targets(())
            return
        self._client = HttpClient(limit=MAX_ANSWER_BYTES, timeout=REQUEST_TIMEOUT)
        self._discovery = AlertmanagerDiscovery(self._alerting.alertmanagers)
        await self._update_targets()
        if self._discovery.has_files:
            self._update_task = asyncio.get_running_loop().create_task(
                self._update_targets_for_ever(), name="alertmanagers"
            )

    async def _update_targets_for_ever(self) -> None:
        while True:
            await asyncio.sleep(DISCOVERY_INTERVAL)
            with self._steps.guard("list alertmanagers"):
                await self._update_targets()

    async def _update_targets(self) -> None:
        assert self._discovery is not None and self._client is not None
        targets = await run_in_thread("list alertmanagers", self._discovery.list_targets)
        removed = [sender for target, sender in self._senders.items() if target not in targets]
        # A new Alertmanager receives the firing alerts at the next resend, as it would after a restart of its own.
        added = [target for target in targets if target not in self._senders]
        senders = self._senders | {target: Sender(target, self._client, self._counters) for target in added}
        self._senders = {target: sender for target, sender in senders.items() if target in targets}
        await asyncio.gather(*(sender.close() for sender in removed))
        self._counters.set_targets({target.url for target in targets})

    def enqueue_due(self, alerts: Iterable[Alert], now_ms: int) -> int:
        """Queues every alert that is due; returns their number."""
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
        """Moves the stored times with the wall clock."""
        self._last_sent_ms = {labels: sent_ms + delta_ms for labels, sent_ms in self._last_sent_ms.items()}

    async def close(self) -> None:
        """Sends the queued alerts and closes; no alert is resolved because the agent stops."""
        if self._update_task is not None:
            self._update_task.cancel()
        await asyncio.gather(*(sender.close() for sender in self._senders.values()))
        if self._client is not None:
            await self._client.close()
