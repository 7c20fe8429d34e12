"""
POST /api/v1/webhook/alertmanager: receives alerts of a fleet's Alertmanager for the remedies that match them.

Accepts payload version 4, with unknown fields. Anything else is a 400, which Alertmanager does not retry. An odd alert
is refused alone: otherwise anybody who can add one to a group could block the rest of the group. This agent's own
alerts come back as echoes and are ignored.
https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

import re
from collections import Counter
from http import HTTPStatus

import prometheus_client
from aiohttp import web

from agent.alerting.webhook_inbox import FullError, to_alert
from agent.web import prometheus_json
from agent.web.context import WebContext
from agent.web.webhook_payload import Payload, PayloadAlert, decode_payload, to_posted_alert
from collectors import Labels

PATH = "/api/v1/webhook/alertmanager"
OUTCOMES = ("taken", "repeated", "resolved", "unwanted", "echo", "refused")
MAX_WARNINGS = 5  # reasons in one answer


class WebhookApi:
    """Serves the webhook."""

    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._generator_url = re.compile(re.escape(context.external_url.rstrip("/")) + r"/graph\?.*", re.DOTALL)
        self._alert_counter = prometheus_client.Counter(
            "steadytok_webhook_alerts", "Alerts that were posted.", ["outcome"], registry=context.registry
        )
        self._rejection_counter = prometheus_client.Counter(
            "steadytok_webhook_rejected", "Posts that were not taken.", ["reason"], registry=context.registry
        )
        for outcome in OUTCOMES:
            self._alert_counter.labels(outcome)
        for reason in ("garbage", "full"):
            self._rejection_counter.labels(reason)

    def routes(self) -> list[web.RouteDef]:
        """Returns the route; access.py checks the credential."""
        return [web.post(PATH, self._receive)]

    async def _receive(self, request: web.Request) -> web.Response:
        try:
            payload = decode_payload(await request.read(), request.remote or "")
            outcomes = await self._accept_alerts(payload)
        except ValueError as error:  # of msgspec, or of an invalid time
            self._rejection_counter.labels("garbage").inc()
            return _build_response(HTTPStatus.BAD_REQUEST, prometheus_json.encode_failure("bad_data", str(error)))
        except FullError as error:
            self._rejection_counter.labels("full").inc()
            response = _build_response(
                HTTPStatus.SERVICE_UNAVAILABLE, prometheus_json.encode_failure("unavailable", str(error))
            )
            response.headers["Retry-After"] = "5"
            return response
        for outcome, count in outcomes.items():
            self._alert_counter.labels(outcome).inc(count)
        warnings = payload.faults[:MAX_WARNINGS]
        return _build_response(HTTPStatus.OK, prometheus_json.encode_data(dict(outcomes), warnings))

    async def _accept_alerts(self, payload: Payload) -> Counter[str]:
        outcomes: Counter[str] = Counter({"refused": len(payload.faults)} if payload.faults else {})
        wanted_alerts = []
        for payload_alert in payload.alerts:
            try:
                inbox_alert = to_posted_alert(payload_alert, payload.sender)
            except ValueError as error:
                payload.faults.append(str(error))
                outcomes["refused"] += 1
                continue
            if self._is_echo(payload_alert, inbox_alert.labels):
                outcomes["echo"] += 1
            elif self._context.remedies.matches_alert(to_alert(inbox_alert)):
                wanted_alerts.append(inbox_alert)
            else:
                outcomes["unwanted"] += 1
        outcomes.update(await self._context.inbox.accept(wanted_alerts, self._context.now_ms()))
        return outcomes

    def _is_echo(self, payload_alert: PayloadAlert, labels: Labels) -> bool:
        external_labels = self._context.external_labels
        if any(payload_alert.labels.get(name) != value for name, value in external_labels.items()):
            return False
        if self._generator_url.fullmatch(payload_alert.generatorURL):
            return True
        own_labels = (
            {**external_labels, **dict(alert.labels)} for alert in self._context.rules().list_alerts() if alert.name
        )
        return any(dict(labels) == each for each in own_labels)


def _build_response(status: HTTPStatus, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")
