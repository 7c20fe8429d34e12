"""
Checks the files that a configuration names as secrets: none is a token of the agent's own, and all can be used.

`token` opens the agent's API and `pace_token` signs paces. Where one of them is named as the secret for a peer, its
first request hands the agent over; where `pace_token` is a token of the API, every engine may use the API.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from agent.config.schema import AgentConfig
from agent.config.validation import ConfigFault
from agent.runtime.errors import describe_reason
from agent.storage.secret_file import SecretFileError, check_for_another_user
from agent.storage.state_dir import PACE_TOKEN, TOKEN, StateError, find_state_dir

_INSTEAD = {
    TOKEN: "is the token of this agent's API, which is nobody else's; expected a file with a secret of its own",
    PACE_TOKEN: "signs paces and is never sent; leave the setting out, or name a file with a secret of its own",
}
_NO_SECRETS = ("ca_file", "cert_file", "pause_file")


def find_shared_tokens(config: AgentConfig) -> Iterator[ConfigFault]:
    """Yields every setting that names the file of an own token, by whatever path or link."""
    try:
        folder = find_state_dir(config.state.dir)
    except StateError:
        return  # the start says it
    own = {os.path.realpath(folder / name): name for name in _INSTEAD}
    for path, file in _list_secret_files(config, "$"):
        name = own.get(os.path.realpath(file))
        if name is not None:
            yield path, f"{file} {_INSTEAD[name]}"


def find_unusable_secrets(config: AgentConfig) -> Iterator[ConfigFault]:
    """Yields every file of a secret that is missing, empty, or open to others; some are first read in an incident."""
    for path, file in _list_secret_files(config, "$"):
        try:
            if not path.endswith(_NO_SECRETS):
                check_for_another_user(file)
        except PermissionError:
            continue  # a folder that only the service may enter
        except (OSError, SecretFileError) as error:
            yield path, f"{file}: {describe_reason(error)}"


def _list_secret_files(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Lists the settings at any depth whose names end in `_file`, and all of `tokens`, with their paths."""
    if isinstance(value, msgspec.Struct):
        value = {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, str) and (str(name).endswith("_file") or path.endswith(".tokens")):
                yield f"{path}.{name}", item
            else:
                yield from _list_secret_files(item, f"{path}.{name}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _list_secret_files(item, f"{path}[{index}]")
