"""Requests to the running agent, with the token of its state folder, over TLS if it is configured."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.commands import _options


def call_agent(config_path: Path | None, method: str, path: str, body: Mapping[str, str] | None = None) -> Any:
    """Returns the agent's response as JSON; ends the command with a sentence if there is none."""
    from agent.console.top_client import explain_no_answer

    config = load_or_exit(config_path)
    headers = {"Authorization": f"Bearer {_read_token(config)}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    url, opener = resolve_endpoint(config)
    request = urllib.request.Request(f"{url}{path}", data=data, headers=headers, method=method)
    try:
        with opener.open(request, timeout=40) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        _options.exit_with_errors([_describe_refusal(error)], 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        _options.exit_with_errors([explain_no_answer(url, error)], 1)


def _read_token(config: Any) -> str:
    from agent.storage.state_dir import TOKEN, StateError, find_state_dir, read_token_of_agent

    try:
        folder = find_state_dir(config.state.dir)
        return read_token_of_agent(folder)
    except StateError as error:
        _options.exit_with_errors([str(error)], 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "run this as the agent's user, with its --config"
        _options.exit_with_errors([f"the token {folder / TOKEN} cannot be read: {reason}; {hint}"], 1)


def resolve_endpoint(config: Any) -> tuple[str, urllib.request.OpenerDirector]:
    """Returns the agent's URL and an opener without proxies, which would get the token of an agent on this host."""
    from agent.config.loader import ConfigError
    from agent.web import webconfig

    direct = urllib.request.ProxyHandler({})
    url = webconfig.agent_url(config)
    if not url.startswith("https:"):
        return url, urllib.request.build_opener(direct)
    try:
        context = webconfig.build_client_context(config.web.config, config.web.client_certificate)
    except ConfigError as error:
        _options.exit_with_errors(error.messages, 1)
    return url, urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=context))


def _describe_refusal(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code}: no steadytok agent answers there"


def load_or_exit(path: Path | None) -> Any:
    """Returns the configuration; ends the command with all its faults."""
    from agent import configuration
    from agent.config.loader import ConfigError
    from agent.runtime.entry_points import PluginError

    try:
        return configuration.load_configuration(path)[0]
    except ConfigError as error:
        _options.exit_with_errors(error.messages, 2)
    except PluginError as error:
        _options.exit_with_errors([str(error)], 1)
