"""Composes the HTTP server from its APIs and access control."""

from __future__ import annotations

from agent.config.loader import ConfigError
from agent.config.schema import AgentConfig
from agent.runtime.errors import describe_reason
from agent.runtime.run_options import StartError
from agent.web.access import AccessControl, build_access_policy
from agent.web.context import WebContext
from agent.web.credentials import Credentials
from agent.web.pages import StaticPages
from agent.web.query_api import QueryApi
from agent.web.remedies_api import RemediesApi
from agent.web.server import WebServer
from agent.web.webhook_api import WebhookApi


async def start_server(config: AgentConfig, context: WebContext) -> tuple[WebServer, str]:
    """Starts the server and returns it with its URL. Raises StartError when it cannot listen."""
    host, _, port = config.web.listen.rpartition(":")
    api_routes = QueryApi(context).routes()
    access_control = _build_access_control(
        config, context, form_paths=[route.path for route in api_routes if route.method == "POST"]
    )
    server = WebServer(
        metrics=context.metrics,
        tick_number=context.tick_number,
        since_tick=context.since_tick,
        step_faults=context.step_faults,
        interval=config.sample.interval,
        routes=[
            *StaticPages().routes(),
            *api_routes,
            *RemediesApi(context.remedies, context.now_ms, context.tick_number).routes(),
            *WebhookApi(context).routes(),
        ],
        access_control=access_control,
    )
    try:
        bound_port = await server.start(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
        await server.close()
        reason = describe_reason(error)
        raise StartError(f"cannot listen on {config.web.listen}: {reason}; set web.listen to a free address") from error
    return server, f"{'http' if access_control.web_config.context is None else 'https'}://{host}:{bound_port}/"


def _build_access_control(config: AgentConfig, context: WebContext, *, form_paths: list[str]) -> AccessControl:
    web = config.web
    access_policy = build_access_policy(
        web.listen, web.hosts, web.external_url, requires_credential=web.read == "credential", form_paths=form_paths
    )
    try:
        return AccessControl(access_policy, Credentials(context.token, web.tokens), web.config, context.registry)
    except ConfigError as error:
        raise StartError("\n".join(error.messages)) from error
