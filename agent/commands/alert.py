"""`steadytok alert test`: sends one alert, so that the operator knows that alerts reach the pager."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import click

from agent.commands import _options
from agent.text.terminal import say


@click.group(name="alert")
def command() -> None:
    """Test the delivery of alerts to Alertmanager."""


@command.command()
@_options.config
@click.option("--alertmanager", "address", metavar="HOST:PORT", help="Send here instead of to the configured ones.")
def test(config_path: Path | None, address: str | None) -> None:
    """
    Send a test alert to every Alertmanager.

    The alert is named SteadytokTest, and ends by itself after five minutes.
    """
    import msgspec

    from agent import configuration
    from agent.config.loader import ConfigError, parse
    from agent.runtime.entry_points import PluginError

    document = {"alerting": {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]}}
    try:
        config, _modules = configuration.load_configuration(config_path)
        if address is not None:
            config = msgspec.structs.replace(config, alerting=parse(document, "--alertmanager", {}).alerting)
    except ConfigError as error:
        _options.exit_with_errors(error.messages, 2)
    except PluginError as error:
        _options.exit_with_errors([str(error)], 1)
    sys.exit(asyncio.run(_send_test_alert(config)))


async def _send_test_alert(config) -> int:  # type: ignore[no-untyped-def]  # Config is imported lazily
    from agent.alerting.alertmanagers import list_targets, post_alerts
    from agent.alerting.notifier import MAX_ANSWER_BYTES, REQUEST_TIMEOUT, build_payload
    from agent.runtime.http_client import HttpClient
    from agent.web.webconfig import agent_url
    from rules.alerts import Alert, AlertState

    destinations = list_targets(config.alerting)
    if not destinations:
        _options.exit_with_errors(
            ["no Alertmanager is configured; give --alertmanager HOST:PORT or alerting: in --config"], 2
        )
    now_ms = round(time.time() * 1000)
    alert = Alert(
        name="SteadytokTest",
        labels=(("alertname", "SteadytokTest"), ("severity", "info")),
        annotations=(("summary", "A test alert sent by hand with `steadytok alert test`; nothing is wrong."),),
        state=AlertState.FIRING,
        value=1.0,
        active_at_ms=now_ms,
        fired_at_ms=now_ms,
        resolved_at_ms=None,
        keep_firing_since_ms=None,
        fresh=True,
        expr="vector(1)",
        interval_ms=round(config.rules.interval * 1000),
    )
    url = config.web.external_url or agent_url(config)
    body = build_payload(alert, now_ms, 75_000, config.build_external_labels(), url)
    status = 0
    async with contextlib.aclosing(HttpClient(limit=MAX_ANSWER_BYTES, timeout=REQUEST_TIMEOUT)) as client:
        for target in destinations:
            fault = await post_alerts(client, target, [body])
            say(f"{target.url}: {fault.reason if fault else 'accepted'}", err=fault is not None)
            status = status or int(fault is not None)
    return status
