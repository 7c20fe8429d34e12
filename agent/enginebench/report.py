"""Formats a run as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from agent.enginebench.client import Completion, EngineClient
from agent.enginebench.heat import Heat
from agent.enginebench.load import LoadRun
from agent.enginebench.summary import Percentiles, Summary, format_verdict, list_speeds, summarise_run
from agent.text.sparkline import draw_sparkline
from agent.text.units import format_latency

MAX_SPARKLINE_WIDTH = 60  # characters
MAX_REQUEST_LINES = 40  # of single requests; a longer run shows its first and last requests


def format_lines(engine: EngineClient, run: LoadRun, before: Heat, after: Heat) -> Iterator[str]:
    """Returns the lines of the table: requests, percentiles, heat, verdict."""
    summary = summarise_run(run)
    yield f"{engine.url}  {engine.model or 'one model'}  /v1/{engine.endpoint.replace('chat', 'chat/completions')}"
    yield ""
    yield f"{'request':>7}  {'tokens':>6}  {'first token':>11}  {'tokens/s':>9}  {'seconds':>8}"
    yield from _format_requests(run.answers)
    yield ""
    yield from _format_numbers(summary, run)
    yield from _format_heat(before, after)
    yield ""
    if run.stop_reason:
        yield f"{run.stop_reason[0].upper()}{run.stop_reason[1:]}."
    for sentence in dict.fromkeys(run.failures):
        yield f"{run.failures.count(sentence)} failed: {sentence}"
    yield format_verdict(summary, before, after)


def _format_requests(answers: list[Completion]) -> Iterator[str]:
    for number, answer in enumerate(answers, 1):
        if MAX_REQUEST_LINES // 2 < number <= len(answers) - MAX_REQUEST_LINES // 2:
            if number == MAX_REQUEST_LINES // 2 + 1:
                yield f"{'…':>7}"
            continue
        speed = f"{answer.speed:9.1f}" if answer.speed is not None else f"{'-':>9}"
        yield (
            f"{number:7}  {answer.tokens:6}  {_format_seconds(answer.first_token):>11}  {speed}  {answer.seconds:8.2f}"
        )


def _format_numbers(summary: Summary, run: LoadRun) -> Iterator[str]:
    yield f"{'':19}  {'p50':>9}  {'p90':>9}  {'p99':>9}  {'max':>9}"
    yield _format_row("time to first token", summary.first_token, times=True)
    yield _format_row("between tokens", summary.between_tokens, times=True)
    yield _format_row("tokens/s of each", summary.speed, times=False)
    yield f"{'tokens/s in all':19}  {summary.throughput:9.1f}  of {summary.tokens} tokens in {summary.seconds:.1f} s"
    if run_speeds := list_speeds(run):
        yield (
            f"{'in order':19}  {draw_sparkline(average_parts(run_speeds))}  from {min(run_speeds):.1f} to "
            f"{max(run_speeds):.1f} tokens/s"
        )
    if any(answer.usage_tokens is None for answer in run.answers):
        yield f"{'':19}  this engine does not report its token count: events were counted"
    if any(not answer.is_streamed for answer in run.answers):
        yield f"{'':19}  this engine does not stream: tokens/s include the time of the prompt"


def _format_row(name: str, percentiles: Percentiles | None, *, times: bool) -> str:
    if percentiles is None:
        return f"{name:19}  {'-':>9}"
    return f"{name:19}  " + "  ".join(
        f"{_format_seconds(value) if times else f'{value:.1f}':>9}" for value in percentiles
    )


def _format_heat(before: Heat, after: Heat) -> Iterator[str]:
    rows = (
        ("hottest DIMM", before.dimm, after.dimm, "{:.0f} °C", 1.0),
        ("hottest processor", before.processor, after.processor, "{:.0f} °C", 1.0),
        ("frequency", before.hertz, after.hertz, "{:.2f} GHz", 1e-9),
    )
    for name, old, new, template, unit in rows:
        if old is not None and new is not None:
            yield f"{name:19}  {template.format(old * unit)} before, {template.format(new * unit)} after"


def _format_seconds(value: float | None) -> str:
    return "-" if value is None else format_latency(value)


def average_parts(values: list[float]) -> list[float]:
    """Returns the means of equal parts of the values, as many as fit a line."""
    parts = min(MAX_SPARKLINE_WIDTH, len(values))
    bounds = [len(values) * index // parts for index in range(parts + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]


def to_json(engine: EngineClient, run: LoadRun, before: Heat, after: Heat) -> dict[str, Any]:
    """Returns everything as one object, in seconds, tokens per second, degrees Celsius and hertz; null: unknown."""
    summary = summarise_run(run)
    return {
        "url": engine.url,
        "model": engine.model or None,
        "endpoint": engine.endpoint,
        "requests": [
            {
                "tokens": answer.tokens,
                "tokens_told": answer.usage_tokens is not None,
                "first_token_seconds": answer.first_token,
                "tokens_per_second": answer.speed,
                "seconds": answer.seconds,
            }
            for answer in run.answers
        ],
        "failures": run.failures,
        "stopped": run.stop_reason or None,
        "tokens": summary.tokens,
        "seconds": summary.seconds,
        "throughput_tokens_per_second": summary.throughput,
        "tokens_per_second": _to_fields(summary.speed),
        "first_token_seconds": _to_fields(summary.first_token),
        "between_tokens_seconds": _to_fields(summary.between_tokens),
        "sag": None if summary.sag is None else summary.sag._asdict(),
        "before": before._asdict(),
        "after": after._asdict(),
        "verdict": format_verdict(summary, before, after),
    }


def _to_fields(percentiles: Percentiles | None) -> dict[str, float] | None:
    return (
        None
        if percentiles is None
        else {("max" if name == "maximum" else name): value for name, value in percentiles._asdict().items()}
    )
