"""Expositions of real engines, without buckets and creation times; each file is named by its version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from collectors._engine.dialects import DIALECTS, Dialect, detect_kind
from collectors._engine.exposition import Points, parse_points
from collectors._engine.signals import read_signal

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.prom"))
_TIMES = ("generated_tokens", "prompt_tokens", "decode_seconds", "prompt_seconds")
_FIRST = ("first_token_seconds", "first_tokens")
EXPECTED: Mapping[str, Mapping[str, float]] = {
    # Cold: zeros are readings, and what an engine does not expose before its first request is missing.
    "llama.cpp-b11434-cold": dict.fromkeys((*_TIMES, "requests_running", "requests_waiting"), 0),
    "sglang-0.5.23-cold": dict.fromkeys(("requests_running", "requests_waiting", "kv_cache_usage"), 0),
    "vllm-0.32.0-cold": dict.fromkeys(
        (*_TIMES, *_FIRST, "requests_running", "requests_waiting", "kv_cache_usage", "preemptions"), 0
    ),
    "llama.cpp-b11434-idle": {
        "generated_tokens": 2640,
        "prompt_tokens": 1141810,  # printed as 1.14181e+06: six digits
        "decode_seconds": 77.5031,
        "prompt_seconds": 72.5954,
        "requests_running": 0,
        "requests_waiting": 0,
    },
    "llama.cpp-b11549-busy-6streams-4slots": {
        "generated_tokens": 2560,
        "prompt_tokens": 1443,
        "decode_seconds": 127.349,
        "prompt_seconds": 6.34171,
        "requests_running": 4,
        "requests_waiting": 2,
    },
    "sglang-0.5.23-busy-6streams-max4": {
        "generated_tokens": 3594,
        "prompt_tokens": 1784 + 108,
        "decode_seconds": 161.53079860299977,
        "first_token_seconds": 78.68184221199954,
        "first_tokens": 38,
        "requests_running": 4,
        "requests_waiting": 2,
        "kv_cache_usage": 0.01,
    },
    "sglang-0.5.23-priority-scheduling-busy": {
        "generated_tokens": 1796,
        "prompt_tokens": 959 + 5,
        "decode_seconds": 75.70150105997345,
        "first_token_seconds": 36.38548892000199,
        "first_tokens": 16,
        "requests_running": 4,
        "requests_waiting": 2,
        "kv_cache_usage": 0.01,
    },
    "vllm-0.32.0-busy-12streams-max8": {
        "generated_tokens": 6566,
        "prompt_tokens": 3494,
        "decode_seconds": 273.4898963210019,
        "prompt_seconds": 14.62603085899923,
        "first_token_seconds": 99.56462717056274,
        "first_tokens": 58,
        "requests_running": 8,
        "requests_waiting": 4,
        "kv_cache_usage": 0.023494860499265746,
        "preemptions": 0,
    },
    "vllm-0.32.0-dev-mode-after-pauses": {
        "generated_tokens": 57098,
        "prompt_tokens": 128638,
        "decode_seconds": 1775.8178991280147,
        "prompt_seconds": 323.4183908799723,
        "first_token_seconds": 5566.931777715683,
        "first_tokens": 2006,
        "requests_running": 0,
        "requests_waiting": 0,
        "kv_cache_usage": 0,
        "preemptions": 122,
    },
    # The worker was stopped with SIGSTOP for 240 s: the front end goes on to answer, with four requests that stand.
    "vllm-0.32.0-worker-stopped-240s": {
        "generated_tokens": 19680,
        "prompt_tokens": 9405,
        "decode_seconds": 871.6059127680023,
        "prompt_seconds": 42.722705295997,
        "first_token_seconds": 354.2358477115631,
        "first_tokens": 168,
        "requests_running": 4,
        "requests_waiting": 0,
        "kv_cache_usage": 0.011747430249632873,
        "preemptions": 0,
    },
}


def _parse(path: Path) -> tuple[Dialect, Points]:
    text = path.read_text()
    kind = detect_kind(text)
    assert kind is not None
    assert path.name.startswith(kind)
    return DIALECTS[kind], parse_points(text, DIALECTS[kind].find_names(text))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_real_exposition_gives_its_signals(path: Path) -> None:
    """Each signal that the engine exposes has the value of its exposition, and none has a fault."""
    dialect, points = _parse(path)
    readings = {signal: read_signal(dialect, signal, points) for signal in dialect.sources}

    assert [reading.fault for reading in readings.values() if reading.fault is not None] == []
    assert {
        signal: reading.value for signal, reading in readings.items() if reading.value is not None
    } == pytest.approx(EXPECTED[path.stem])


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_it_is_decided_for_every_label_whether_its_series_add_up(path: Path) -> None:
    """
    A new version's new label, such as another rank or another total, is noticed when its exposition is recorded.

    Otherwise its series would be added up, as SGLang's priorities were to their total.
    """
    dialect, points = _parse(path)
    decided = dialect.ranks | dialect.replicas
    labels = {label for series in points.values() for point in series or () for label in point.labels}

    assert labels <= decided
    assert not dialect.ranks & dialect.replicas


def test_every_supported_engine_is_recorded() -> None:
    """No recording lacks its expected values, and each engine of others has one."""
    assert {path.stem for path in RECORDED} == set(EXPECTED)
    assert {detect_kind(path.read_text()) for path in RECORDED} == set(DIALECTS) - {"reference"}
