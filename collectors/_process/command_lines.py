"""
Recognises engines by their command line, and reads ranks from the titles of their workers.

Whole words of a command line are compared: `vim vllm.py` and `bash -c "vllm serve"` are no engines.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence

_PYTHON = re.compile(r"python[\d.]*|pypy[\d.]*", re.ASCII)
_PYTHON_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")
_PROGRAMS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llama-server": "llama.cpp",
    "llama-cli": "llama.cpp",
    "llama-run": "llama.cpp",
    "llamafile": "llama.cpp",
    "ktransformers": "ktransformers",
    "ktransformers.server": "ktransformers",
    "local_chat.py": "ktransformers",
    "ollama": "ollama",
    "ollama_llama_server": "ollama",
}
_MODULES = {
    "engine": "reference",
    "vllm": "vllm",
    "sglang": "sglang",
    "ktransformers": "ktransformers",
    "llama_cpp": "llama.cpp",
}
_DEFAULT_PORTS = {"vllm": 8000, "sglang": 30000, "llama.cpp": 8080, "ktransformers": 10002, "ollama": 11434}
# vLLM and SGLang title their processes with setproctitle(3): VLLM::Worker_TP0, sglang::scheduler_DP1_TP0.
_TITLES = {"VLLM::": "vllm", "sglang::": "sglang"}
_WORKER = re.compile(r"(?:VLLM::Worker|sglang::scheduler)_?(\S*)")
_CORE = re.compile(r"VLLM::EngineCore_?(\S*)")
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_PART = re.compile(r"(DP|PP|TP)(\d{1,4})", re.ASCII)


def detect_kind(words: Sequence[str]) -> str | None:
    """Returns the kind of engine that a command line starts or a title names, or None."""
    if not words:
        return None
    for prefix, title_kind in _TITLES.items():
        if words[0].startswith(prefix):
            return title_kind
    program = os.path.basename(words[0])
    if not _PYTHON.fullmatch(program):
        # Ollama's server holds no model; its runners do.
        return _PROGRAMS.get(program)
    return _detect_python_kind(words[1:])


def is_runner(words: Sequence[str]) -> bool:
    """Returns True for the process of Ollama that holds a model."""
    program = os.path.basename(words[0]) if words else ""
    return program == "ollama_llama_server" or (program == "ollama" and words[1:2] == ["runner"])


def parse_rank(words: Sequence[str]) -> str | None:
    """Returns the rank in a worker's title: `1`, or `PP1_TP0` for several ranks; None where this is no worker."""
    return _parse_title_rank(_WORKER, words)


def parse_core_rank(words: Sequence[str]) -> str | None:
    """Returns the rank in the title of vLLM's EngineCore, which holds the model itself where there is one worker."""
    return _parse_title_rank(_CORE, words)


def parse_port(words: Sequence[str]) -> int | None:
    """Returns the port that a command line requests, or None."""
    following = (text for word, text in itertools.pairwise(words) if word == "--port")
    joined = (word.removeprefix("--port=") for word in words if word.startswith("--port="))
    return next(filter(None, map(_parse_port_number, itertools.chain(following, joined))), None)


def get_default_port(kind: str) -> int | None:
    """Returns the port on which an engine of this kind listens by default."""
    return _DEFAULT_PORTS.get(kind)


def parse_proxy(words: Sequence[str]) -> tuple[int, str, int] | None:
    """Returns (port of the host, address of the container, port there) from docker-proxy's command line, or None."""
    if not words or os.path.basename(words[0]) != "docker-proxy":
        return None
    options = dict(zip(words[1::2], words[2::2], strict=False))  # -proto tcp -host-port 8000 …: names and values
    host, container = (
        _parse_port_number(options.get("-host-port", "")),
        _parse_port_number(options.get("-container-port", "")),
    )
    return None if host is None or container is None else (host, options.get("-container-ip", ""), container)


def _parse_port_number(text: str) -> int | None:
    """Returns a valid TCP port, or None."""
    return int(text) if _PORT.fullmatch(text) and 0 < int(text) < 65_536 else None


def _detect_python_kind(words: Sequence[str]) -> str | None:
    """Returns the engine's kind from the words after Python's own options: `-P -m MODULE …` or `SCRIPT …`."""
    rest = iter(words)
    for word in rest:
        if word == "-m":
            return _MODULES.get(next(rest, "").split(".")[0])
        if word in _PYTHON_WITH_VALUE:
            next(rest, "")
        elif word == "-c":
            return None
        elif not word.startswith("-"):
            return _PROGRAMS.get(os.path.basename(word))
    return None


def _parse_title_rank(title: re.Pattern[str], words: Sequence[str]) -> str | None:
    match = title.match(words[0]) if words else None
    if match is None:
        return None
    parts = _PART.findall(match[1])
    if [name for name, _ in parts] in ([], ["TP"]):
        number = parts[0][1] if parts else match[1]
        return number if number.isdecimal() else "0"
    return "_".join(name + number for name, number in parts)
