"""The address of an engine, as the configuration gives it to the collectors that use engines."""

from __future__ import annotations

from typing import NamedTuple, Self


class _Address(NamedTuple):
    name: str
    url: str
    kind: str = "auto"


class EngineAddress(_Address):
    """
    An engine's name, its base URL and its kind (`auto` where the kind is to be detected).

    `api_key_file` is an attribute beside the tuple: third parties' collectors unpack its three fields.
    """

    api_key_file: str | None

    def __new__(cls, name: str, url: str, kind: str = "auto", *, api_key_file: str | None = None) -> Self:
        """Makes an address; the key stays in its file."""
        address = super().__new__(cls, name, url, kind)
        address.api_key_file = api_key_file
        return address
