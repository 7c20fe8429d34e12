"""Requests to the running agent, with the token of its state folder, over TLS if it is configured."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.commands import _options

if TYPE_CHECKING:
    from collectors import HttpAnswer

REQUEST_TIMEOUT = 40.0  # seconds for one answer: an act that an operator starts may take thirty


def call_agent(config_path: Path | None, method: str, path: str, body: Mapping[str, str] | None = None) -> Any:
    """Returns the agent's response as JSON; ends the command with a sentence if there is none."""
    from agent.console.top_client import MAX_ANSWER_BYTES, explain_no_answer
    from collectors import request_http

    config = load_or_exit(config_path)
    headers = {"Authorization": f"Bearer {_read_token(config)}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    url, tls = resolve_endpoint(config)
    try:
        answer = request_http(
            method, f"{url}{path}", body=data, headers=headers, timeout=REQUEST_TIMEOUT, limit=MAX_ANSWER_BYTES, tls=tls
        )
        if answer.status // 100 != 2:
            _options.exit_with_errors([_describe_refusal(answer)], 1)
        return answer.parse_json()
    except (OSError, ValueError) as error:
        _options.exit_with_errors([explain_no_answer(url, error)], 1)


def _read_token(config: Any) -> str:
    from agent.runtime.errors import describe_reason
    from agent.storage.state_dir import TOKEN, StateError, find_state_dir, read_token_of_agent

    try:
        folder = find_state_dir(config.state.dir)
        token = read_token_of_agent(folder)
    except StateError as error:
        _options.exit_with_errors([str(error)], 1)
    except (OSError, ValueError) as error:
        reason = describe_reason(error)
        hint = "run this as the agent's user, with its --config"
        _options.exit_with_errors([f"the token {folder / TOKEN} cannot be read: {reason}; {hint}"], 1)
    refuse_stranger(config, folder / TOKEN)
    return token


def refuse_stranger(config: Any, token_file: Path) -> None:
    """Ends the command where another user than the token's owner listens at the agent's address."""
    from agent.runtime.listening_sockets import find_listener_users
    from agent.web.webconfig import uses_tls

    if uses_tls(config.web.config):
        return  # the certificate proves who answers
    host, _, port = config.web.listen.rpartition(":")
    strangers = find_listener_users(host.strip("[]"), int(port)) - {token_file.stat().st_uid, 0}
    if strangers:
        _options.exit_with_errors(
            [
                f"the user {min(strangers)} listens at {config.web.listen}, and the token {token_file} is of the user "
                f"{token_file.stat().st_uid}: it is not sent; see what that program is (ss -ltnp)"
            ],
            1,
        )


def resolve_endpoint(config: Any) -> tuple[str, ssl.SSLContext | None]:
    """Returns the agent's URL, and the context of its TLS if it has any."""
    from agent.config.loader import ConfigError
    from agent.web import webconfig

    url = webconfig.agent_url(config)
    if not url.startswith("https:"):
        return url, None
    try:
        return url, webconfig.build_client_context(config.web.config, config.web.client_certificate)
    except ConfigError as error:
        _options.exit_with_errors(error.messages, 1)


def _describe_refusal(answer: HttpAnswer) -> str:
    try:
        return str(answer.parse_json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status}: no steadytok agent answers there"


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
