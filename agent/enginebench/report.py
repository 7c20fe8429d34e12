"""A run for people, as a table, and for programs, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from agent.enginebench.client import Answer, Engine
from agent.enginebench.heat import Heat
from agent.enginebench.load import Run
from agent.enginebench.summary import Percentiles, Summary, speeds, summarise, verdict

STEPS = "▁▂▃▄▅▆▇█"
LINES = 40  # of single requests; of more, the first and the last are shown


def lines(engine: Engine, run: Run, before: Heat, after: Heat) -> Iterator[str]:
    """The table: requests, percentiles, heat, verdict."""
    summary = summarise(run)
    yield f"{engine.url}  {engine.model or 'one model'}  /v1/{engine.endpoint.replace('chat', 'chat/completions')}"
    yield ""
    yield f"{'request':>7}  {'tokens':>6}  {'first token':>11}  {'tokens/s':>9}  {'seconds':>8}"
    yield from _requests(run.answers)
    yield ""
    yield from _numbers(summary, run)
    yield from _heat(before, after)
    yield ""
    if run.stopped:
        yield f"{run.stopped[0].upper()}{run.stopped[1:]}."
    for sentence in dict.fromkeys(run.failures):
        yield f"{run.failures.count(sentence)} failed: {sentence}"
    yield verdict(summary, before, after)


def _requests(answers: list[Answer]) -> Iterator[str]:
    for number, answer in enumerate(answers, 1):
        if LINES // 2 < number <= len(answers) - LINES // 2:
            if number == LINES // 2 + 1:
                yield f"{'…':>7}"
            continue
        speed = f"{answer.speed:9.1f}" if answer.speed is not None else f"{'-':>9}"
        yield f"{number:7}  {answer.tokens:6}  {_seconds(answer.first_token):>11}  {speed}  {answer.seconds:8.2f}"


def _numbers(summary: Summary, run: Run) -> Iterator[str]:
    yield f"{'':19}  {'p50':>9}  {'p90':>9}  {'p99':>9}  {'max':>9}"
    yield _row("time to first token", summary.first_token, times=True)
    yield _row("between tokens", summary.between_tokens, times=True)
    yield _row("tokens/s of each", summary.speed, times=False)
    yield f"{'tokens/s in all':19}  {summary.throughput:9.1f}  of {summary.tokens} tokens in {summary.seconds:.1f} s"
    if found := speeds(run):
        yield f"{'in order':19}  {drawing(found)}  from {min(found):.1f} to {max(found):.1f} tokens/s"
    if any(answer.told is None for answer in run.answers):
        yield f"{'':19}  this engine does not say how many tokens it made: events were counted"
    if any(not answer.streamed for answer in run.answers):
        yield f"{'':19}  this engine does not stream: tokens/s are of whole answers, with their prompts"


def _row(name: str, found: Percentiles | None, *, times: bool) -> str:
    if found is None:
        return f"{name:19}  {'-':>9}"
    return f"{name:19}  " + "  ".join(f"{_seconds(value) if times else f'{value:.1f}':>9}" for value in found)


def _heat(before: Heat, after: Heat) -> Iterator[str]:
    rows = (
        ("hottest DIMM", before.dimm, after.dimm, "{:.0f} °C", 1.0),
        ("hottest processor", before.processor, after.processor, "{:.0f} °C", 1.0),
        ("frequency", before.hertz, after.hertz, "{:.2f} GHz", 1e-9),
    )
    for name, old, new, form, unit in rows:
        if old is not None and new is not None:
            yield f"{name:19}  {form.format(old * unit)} before, {form.format(new * unit)} after"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def drawing(values: list[float], width: int = 60) -> str:
    """A curve in one line, from 0 to the largest; of many values the means of equal parts."""
    parts = min(width, len(values))
    ends = [len(values) * index // parts for index in range(parts + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(ends)]
    top = max(means) or 1.0
    return "".join(STEPS[min(int(mean / top * len(STEPS)), len(STEPS) - 1)] for mean in means)


def as_json(engine: Engine, run: Run, before: Heat, after: Heat) -> dict[str, Any]:
    """Everything in one object; seconds, tokens per second, degrees Celsius, hertz; null: not known."""
    summary = summarise(run)
    return {
        "url": engine.url,
        "model": engine.model or None,
        "endpoint": engine.endpoint,
        "requests": [
            {
                "tokens": answer.tokens,
                "tokens_told": answer.told is not None,
                "first_token_seconds": answer.first_token,
                "tokens_per_second": answer.speed,
                "seconds": answer.seconds,
            }
            for answer in run.answers
        ],
        "failures": run.failures,
        "stopped": run.stopped or None,
        "tokens": summary.tokens,
        "seconds": summary.seconds,
        "throughput_tokens_per_second": summary.throughput,
        "tokens_per_second": _fields(summary.speed),
        "first_token_seconds": _fields(summary.first_token),
        "between_tokens_seconds": _fields(summary.between_tokens),
        "sag": None if summary.sag is None else summary.sag._asdict(),
        "before": before._asdict(),
        "after": after._asdict(),
        "verdict": verdict(summary, before, after),
    }


def _fields(found: Percentiles | None) -> dict[str, float] | None:
    return None if found is None else {("max" if name == "most" else name): v for name, v in found._asdict().items()}
