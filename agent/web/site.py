"""The site: everything of the agent that answers HTTP, wired. Who may ask what is decided here and below `web/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from agent.alerting.webhook_inbox import Inbox
from agent.config.loader import ConfigError
from agent.config.schema import Config
from agent.remediation.remediator import Remedies
from agent.runtime.run_options import StartError
from agent.web import webconfig
from agent.web.access import Doorkeeper, policy
from agent.web.credentials import Credentials
from agent.web.pages import Front
from agent.web.query_api import Api, Sources
from agent.web.remedies_api import Door
from agent.web.server import Server
from agent.web.webhook_api import Posted, Webhook


@dataclass(frozen=True)
class Parts:
    """What the site shows and does; the functions are called on the event loop, for each request."""

    sources: Sources
    remedies: Remedies
    token: str
    """The secret of the state folder: who holds it may change things."""
    metrics: Callable[[], str]
    since_tick: Callable[[], float | None]
    registry: CollectorRegistry
    """Where the door counts whom it refused, and the webhook what was posted."""
    inbox: Inbox
    external: Mapping[str, str]
    external_url: str


def url(config: Config) -> str:
    """Where the site is, as the configuration has it."""
    scheme = "https" if webconfig.speaks_tls(config.web.config) else "http"
    return f"{scheme}://{config.web.listen}"


async def opened(config: Config, parts: Parts) -> tuple[Server, str]:
    """The listening server and its URL. Raises StartError where it cannot listen."""
    host, _, port = config.web.listen.rpartition(":")
    api = Api(parts.sources).routes()
    door = _door(config, parts, forms=[route.path for route in api if route.method == "POST"])
    server = Server(
        metrics=parts.metrics,
        since_tick=parts.since_tick,
        interval=config.sample.interval,
        routes=[
            *Front().routes(),
            *api,
            *Door(parts.remedies, parts.sources.now_ms).routes(),
            *Webhook(_posted(parts), parts.registry).routes(),
        ],
        door=door,
    )
    try:
        bound = await server.start(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
        await server.close()
        why = getattr(error, "strerror", None) or error
        raise StartError(f"cannot listen on {config.web.listen}: {why}; set web.listen to a free address") from error
    return server, f"{'http' if door.opened.context is None else 'https'}://{host}:{bound}/"


def _posted(parts: Parts) -> Posted:
    sources = parts.sources
    return Posted(
        remedies=parts.remedies,
        inbox=parts.inbox,
        alerts=lambda: sources.rules().alerts(),
        external=parts.external,
        external_url=parts.external_url,
        now_ms=sources.now_ms,
    )


def _door(config: Config, parts: Parts, *, forms: list[str]) -> Doorkeeper:
    told = config.web
    rules = policy(told.listen, told.hosts, told.external_url, closed=told.read == "credential", forms=forms)
    try:
        return Doorkeeper(rules, Credentials(parts.token, told.tokens), told.config, parts.registry)
    except ConfigError as error:
        raise StartError("\n".join(error.messages)) from error
