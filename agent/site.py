"""The site: everything of the agent that answers HTTP, wired. Who may ask what is decided here and below `web/`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.place import StartError
from agent.remedies import Remedies
from agent.settings import Config
from agent.web.api import Api, Sources
from agent.web.front import Front
from agent.web.remedies import Door
from agent.web.server import Server


@dataclass(frozen=True)
class Parts:
    """What the site shows and does; the functions are called on the event loop, for each request."""

    sources: Sources
    remedies: Remedies
    token: str
    """The secret of the state folder: who holds it may change things."""
    metrics: Callable[[], str]
    since_tick: Callable[[], float | None]


async def opened(config: Config, parts: Parts) -> tuple[Server, str]:
    """The listening server and its URL. Raises StartError where it cannot listen."""
    host, _, port = config.web.listen.rpartition(":")
    server = Server(
        metrics=parts.metrics,
        since_tick=parts.since_tick,
        interval=config.sample.interval,
        routes=[
            *Front().routes(),
            *Api(parts.sources).routes(),
            *Door(parts.remedies, parts.token, parts.sources.now_ms).routes(),
        ],
    )
    try:
        bound = await server.start(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
        await server.close()
        why = getattr(error, "strerror", None) or error
        raise StartError(f"cannot listen on {config.web.listen}: {why}; set web.listen to a free address") from error
    return server, f"http://{host}:{bound}/"
