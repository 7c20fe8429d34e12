"""
Which processes hold an engine's memory: found by command line and listening sockets, or named in the configuration.

An engine is a tree of processes: vLLM's API server with its workers, Ollama with its runners. Of a tree only those
that hold the model count, each with its rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from collectors._host import Host


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine that the operator names; of url, command and pid the first that is given finds its process."""

    name: str
    url: str | None = None
    """Where it answers: the process that listens there, in whatever network namespace, or one of its children."""
    command: str | None = None
    """A regular expression (re2) that is found in its command line, arguments separated by spaces."""
    pid: int | None = None


class EngineProcess(NamedTuple):
    """One process that holds an engine's memory."""

    engine: str
    """The configured name, else `KIND:PORT`, else `KIND`."""
    rank: str
    """`0`, `1`, … for tensor-parallel workers, else as the engine writes it (`PP1_TP0`); `0` where there is one."""
    kind: str
    """reference, vllm, sglang, llama.cpp, ktransformers or ollama; other for a named process of unknown kind."""
    pid: int
    started: int
    """Clock ticks from the boot to its start: with the pid, who it is. /proc/PID/stat, field 22."""
    command: str
    """What the kernel calls it, at most 15 characters: /proc/PID/comm."""


def find(host: Host, targets: Sequence[Target], *, discover: bool = True) -> list[EngineProcess]:
    """
    The processes there are now, in the order of engine and rank; a target without a process leaves a note.

    With `discover` also those engines that nobody named.
    """
    raise NotImplementedError
