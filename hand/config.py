"""
What root allows, from hand.toml: whom to listen to, which units may be touched, which commands there are.

TOML because the standard library reads it. A file that others than root could have written is not believed.
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

UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,200}\.(?:service|scope|slice)")
COMMAND = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
VARIABLE = re.compile(r"STEADYTOK_[A-Z0-9_]{1,50}")
LONGEST_COMMAND = 60.0  # seconds: no verb takes longer, and the agent waits for 90
AGENT_USER = "steadytok"
AGENT_UNIT = "/system.slice/steadytok.service"


class ConfigError(Exception):
    """The file cannot be used; one sentence."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Whose processes may be touched, and how."""

    cgroup: str
    freeze: bool = False
    migrate: bool = False
    reclaim: bool = False
    longest_stop: float = 0.5
    """Seconds that the unit may stand still at a time; more, and a liveness probe might kill it."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program that may be started: its arguments are fixed, and so is who runs it."""

    argv: tuple[str, ...]
    user: str
    timeout: float = 10.0
    environment: frozenset[str] = frozenset()
    """Names of the variables that the caller may set."""


@dataclass(frozen=True, slots=True)
class Config:
    """All of the file."""

    uids: frozenset[int] = frozenset()
    cgroup: str | None = AGENT_UNIT
    """The cgroup the caller must be in, or below; None in direct mode, where the caller started us."""
    units: Mapping[str, Unit] = field(default_factory=dict)
    commands: Mapping[str, Command] = field(default_factory=dict)


def load(path: Path, *, trusted: frozenset[int] = frozenset({0})) -> Config:
    """The configuration; ConfigError in a sentence. `trusted` are the owners that the file may have."""
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()), trusted)
            return _config(tomllib.load(file))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_owner(path: Path, status: os.stat_result, trusted: frozenset[int]) -> None:
    if status.st_uid not in trusted or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError("expected a file that only root can write: chown root:root and chmod 644 it")


def _config(table: dict[str, Any]) -> Config:
    peer = _table(table, "peer", {"user", "cgroup"})
    _known(table, "", {"peer", "units", "commands"})
    return Config(
        _callers(peer),
        _cgroup("peer.cgroup", peer.get("cgroup", AGENT_UNIT)),
        {name: _unit(name, values) for name, values in _tables(table, "units", UNIT)},
        {name: _command(name, values) for name, values in _tables(table, "commands", COMMAND)},
    )


def _callers(peer: dict[str, Any]) -> frozenset[int]:
    """Whom root named; nobody where it named none and there is no user of the agent's usual name."""
    try:
        return frozenset({_uid(_text(peer, "peer.user", AGENT_USER))})
    except ConfigError:
        if "user" in peer:
            raise
        return frozenset()


def _unit(name: str, values: dict[str, Any]) -> Unit:
    where = f"units.{name}"
    _known(values, f"{where}.", {"cgroup", "freeze", "migrate", "reclaim", "longest_stop"})
    flags = {key: values.get(key, False) for key in ("freeze", "migrate", "reclaim")}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise ConfigError(f"{where}.{key}: expected true or false")
    longest = _seconds(values, f"{where}.longest_stop", 0.5, 10.0)
    return Unit(
        _cgroup(f"{where}.cgroup", values.get("cgroup", f"/system.slice/{name}")), **flags, longest_stop=longest
    )


def _command(name: str, values: dict[str, Any]) -> Command:
    where = f"commands.{name}"
    _known(values, f"{where}.", {"argv", "user", "timeout", "environment"})
    argv, allowed = values.get("argv"), values.get("environment", [])
    if not isinstance(argv, list) or not argv or not all(isinstance(part, str) and "\0" not in part for part in argv):
        raise ConfigError(f"{where}.argv: expected a list of texts, the program first")
    if not argv[0].startswith("/"):
        raise ConfigError(f"{where}.argv: expected the program with its whole path, found {argv[0]!r}")
    if not isinstance(allowed, list) or not all(isinstance(each, str) and VARIABLE.fullmatch(each) for each in allowed):
        raise ConfigError(f"{where}.environment: expected names that begin with STEADYTOK_")
    user = _text(values, f"{where}.user", "nobody")
    _uid(user)
    return Command(tuple(argv), user, _seconds(values, f"{where}.timeout", 10.0, LONGEST_COMMAND), frozenset(allowed))


def _table(table: dict[str, Any], name: str, known: set[str]) -> dict[str, Any]:
    found = table.get(name, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{name}: expected a table")
    _known(found, f"{name}.", known)
    return found


def _tables(table: dict[str, Any], name: str, pattern: re.Pattern[str]) -> list[tuple[str, dict[str, Any]]]:
    found = table.get(name, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{name}: expected a table")
    for key, values in found.items():
        if not pattern.fullmatch(key) or not isinstance(values, dict):
            raise ConfigError(f"{name}.{key}: expected a table under a name such as {pattern.pattern}")
    return list(found.items())


def _known(table: Mapping[str, Any], where: str, known: set[str]) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}{key}: unknown; expected {', '.join(sorted(known))}")


def _text(table: Mapping[str, Any], where: str, default: str) -> str:
    value = table.get(where.rpartition(".")[2], default)
    if not isinstance(value, str):
        raise ConfigError(f"{where}: expected a text")
    return value


def _seconds(table: Mapping[str, Any], where: str, default: float, most: float) -> float:
    value = table.get(where.rpartition(".")[2], default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ConfigError(f"{where}: expected seconds, more than 0 and at most {most:g}")
    return float(value)


def _cgroup(where: str, value: object) -> str:
    """A cgroup's path as /proc/PID/cgroup writes it."""
    if not isinstance(value, str) or not value.startswith("/") or {".", ".."} & set(value.split("/")):
        raise ConfigError(f"{where}: expected a cgroup such as {AGENT_UNIT}")
    return str(PurePosixPath(value))


def _uid(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(f"no user is named {user!r} on this host") from None
