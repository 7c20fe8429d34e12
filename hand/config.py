"""
Reads hand.toml, in which root names the permitted caller, the units that may be changed, and the commands.

The format is TOML because the standard library reads it. A file that users other than root can write is refused.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]{1,200}\.(?:service|scope|slice)")
COMMAND_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
VARIABLE_NAME = re.compile(r"STEADYTOK_[A-Z0-9_]{1,50}")
MAX_COMMAND_SECONDS = 60.0  # no verb takes longer; the agent waits 90 s for an answer
AGENT_USER = "steadytok"
AGENT_UNIT = "/system.slice/steadytok.service"


class HandConfigError(Exception):
    """The file cannot be used; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class AllowedUnit:
    """A systemd unit and the verbs that may act on its processes."""

    cgroup: str
    freeze: bool = False
    migrate: bool = False
    reclaim: bool = False
    longest_stop: float = 0.5
    """Seconds that the unit may be frozen at a time; after a longer stop a liveness probe might kill it."""


@dataclass(frozen=True, slots=True)
class AllowedCommand:
    """A program that may be started, with fixed arguments and a fixed user."""

    argv: tuple[str, ...]
    user: str
    timeout: float = 10.0
    environment: frozenset[str] = frozenset()
    """Names of the environment variables that the caller may set."""


@dataclass(frozen=True, slots=True)
class HandConfig:
    """The checked contents of hand.toml."""

    uids: frozenset[int] = frozenset()
    cgroup: str | None = AGENT_UNIT
    """The caller's cgroup must be this one or below it; None in direct mode, where the caller started the hand."""
    units: Mapping[str, AllowedUnit] = field(default_factory=dict)
    commands: Mapping[str, AllowedCommand] = field(default_factory=dict)


def load_config(path: Path, *, trusted_owners: frozenset[int] = frozenset({0})) -> HandConfig:
    """Reads the configuration; raises HandConfigError. `trusted_owners` are the user ids that may own the file."""
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()), trusted_owners)
            return _parse_config(tomllib.load(file))
    except OSError as error:
        raise HandConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HandConfigError(f"{path}: not TOML: {error}") from error
    except HandConfigError as error:
        raise HandConfigError(f"{path}: {error}") from None


def _check_owner(path: Path, status: os.stat_result, trusted_owners: frozenset[int]) -> None:
    if status.st_uid not in trusted_owners or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HandConfigError("expected a file that only root can write: chown root:root and chmod 644 it")


def _parse_config(table: dict[str, Any]) -> HandConfig:
    peer = _get_table(table, "peer", {"user", "cgroup"})
    _reject_unknown_keys(table, "", {"peer", "units", "commands"})
    return HandConfig(
        _parse_uids(peer),
        _parse_cgroup("peer.cgroup", peer.get("cgroup", AGENT_UNIT)),
        {name: _parse_unit(name, values) for name, values in _get_tables(table, "units", UNIT_NAME)},
        {name: _parse_command(name, values) for name, values in _get_tables(table, "commands", COMMAND_NAME)},
    )


def _parse_uids(peer: dict[str, Any]) -> frozenset[int]:
    """Returns the permitted user; nobody when `peer.user` is absent and this host has no user named AGENT_USER."""
    try:
        return frozenset({_look_up_uid(_get_text(peer, "peer.user", AGENT_USER))})
    except HandConfigError:
        if "user" in peer:
            raise
        return frozenset()


def _parse_unit(name: str, values: dict[str, Any]) -> AllowedUnit:
    section = f"units.{name}"
    _reject_unknown_keys(values, f"{section}.", {"cgroup", "freeze", "migrate", "reclaim", "longest_stop"})
    flags = {key: values.get(key, False) for key in ("freeze", "migrate", "reclaim")}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise HandConfigError(f"{section}.{key}: expected true or false")
    longest_stop = _get_seconds(values, f"{section}.longest_stop", 0.5, 10.0)
    return AllowedUnit(
        _parse_cgroup(f"{section}.cgroup", values.get("cgroup", f"/system.slice/{name}")),
        **flags,
        longest_stop=longest_stop,
    )


def _parse_command(name: str, values: dict[str, Any]) -> AllowedCommand:
    section = f"commands.{name}"
    _reject_unknown_keys(values, f"{section}.", {"argv", "user", "timeout", "environment"})
    argv, variables = values.get("argv"), values.get("environment", [])
    if not isinstance(argv, list) or not argv or not all(isinstance(part, str) and "\0" not in part for part in argv):
        raise HandConfigError(f"{section}.argv: expected a list of texts, the program first")
    if not argv[0].startswith("/"):
        raise HandConfigError(f"{section}.argv: expected the program with its absolute path, found {argv[0]!r}")
    if not isinstance(variables, list) or not all(
        isinstance(variable, str) and VARIABLE_NAME.fullmatch(variable) for variable in variables
    ):
        raise HandConfigError(f"{section}.environment: expected names that begin with STEADYTOK_")
    user = _get_text(values, f"{section}.user", "nobody")
    _look_up_uid(user)
    return AllowedCommand(
        tuple(argv), user, _get_seconds(values, f"{section}.timeout", 10.0, MAX_COMMAND_SECONDS), frozenset(variables)
    )


def _get_table(table: dict[str, Any], name: str, known_keys: set[str]) -> dict[str, Any]:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise HandConfigError(f"{name}: expected a table")
    _reject_unknown_keys(value, f"{name}.", known_keys)
    return value


def _get_tables(table: dict[str, Any], name: str, pattern: re.Pattern[str]) -> list[tuple[str, dict[str, Any]]]:
    tables = table.get(name, {})
    if not isinstance(tables, dict):
        raise HandConfigError(f"{name}: expected a table")
    for key, values in tables.items():
        if not pattern.fullmatch(key) or not isinstance(values, dict):
            raise HandConfigError(f"{name}.{key}: expected a table under a name such as {pattern.pattern}")
    return list(tables.items())


def _reject_unknown_keys(table: Mapping[str, Any], prefix: str, known_keys: set[str]) -> None:
    for key in table:
        if key not in known_keys:
            raise HandConfigError(f"{prefix}{key}: unknown; expected {', '.join(sorted(known_keys))}")


def _get_text(table: Mapping[str, Any], dotted_key: str, default: str) -> str:
    value = table.get(dotted_key.rpartition(".")[2], default)
    if not isinstance(value, str):
        raise HandConfigError(f"{dotted_key}: expected a text")
    return value


def _get_seconds(table: Mapping[str, Any], dotted_key: str, default: float, maximum: float) -> float:
    value = table.get(dotted_key.rpartition(".")[2], default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= maximum:
        raise HandConfigError(f"{dotted_key}: expected seconds, more than 0 and at most {maximum:g}")
    return float(value)


def _parse_cgroup(dotted_key: str, value: object) -> str:
    """Returns a cgroup's path as /proc/PID/cgroup writes it."""
    if not isinstance(value, str) or not value.startswith("/") or {".", ".."} & set(value.split("/")):
        raise HandConfigError(f"{dotted_key}: expected a cgroup such as {AGENT_UNIT}")
    return str(PurePosixPath(value))


def _look_up_uid(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise HandConfigError(f"this host has no user {user!r}") from None
