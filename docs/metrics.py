"""The page of every metric, from what the collectors and the agent declare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType

from prometheus_client import CollectorRegistry

from agent.alerting.notifier import NotifierCounters
from agent.sampling import plugins
from agent.sampling.plugins import Collector
from agent.selfmetrics import definitions
from collectors import Metric

HEAD = """# Metrics reference

What `/metrics` and the query API have, by collector. Which of them a host has depends on its hardware, its kernel and
what the agent may read: `steadytok check` says so. In the query API, and in alerts, each has the labels `job` and
`instance` besides. `meminfo` and `node_meminfo` also pass on fields that a newer kernel has and this list has not.

"""


def render_page() -> str:
    """The whole page, as Markdown."""
    parts = [HEAD]
    for name, module in sorted(plugins.load_collectors().items()):
        parts += _render_collector(name, module)
    parts += [
        "## The agent\n\nWhat it measures of itself, of engines and of remedies.\n\n",
        *_render_table(definitions.METRICS),
    ]
    parts += ["### Counted for the scrape alone\n\nThe query API does not have these.\n\n", *_render_counters()]
    return "".join(parts).rstrip() + "\n"


def _render_collector(name: str, module: ModuleType) -> Iterator[str]:
    collector = plugins.bind_collector(module, name, interval=None, deadline=None, config=None)
    yield f"## {name}\n\n{_read_docstring(module)}\n\n{_describe_schedule(collector)}\n\n"
    yield from _render_table(collector.metrics)


def _read_docstring(module: ModuleType) -> str:
    """The first paragraphs of the module: what it reads, and what fools it."""
    return (module.__doc__ or "").strip()


def _describe_schedule(collector: Collector) -> str:
    location = " in the eye, a process that can be killed" if collector.isolated else ""
    if collector.after:
        return f"Made of: {', '.join(collector.after)}."
    return f"Read every {collector.interval:g} s{location}."


def _render_table(metrics: Iterable[Metric]) -> Iterator[str]:
    yield "| metric | type | what it is |\n|---|---|---|\n"
    for metric in metrics:
        yield f"| `{metric.name}` | {metric.kind} | {_escape_cell(metric.help)} |\n"
    yield "\n"


def _render_counters() -> Iterator[str]:
    registry = CollectorRegistry(auto_describe=False)
    NotifierCounters(registry).set_targets({""})
    yield "| metric | type | what it is |\n|---|---|---|\n"
    for family in registry.collect():
        suffix = "_total" if family.type == "counter" else ""
        yield f"| `{family.name}{suffix}` | {family.type} | {_escape_cell(family.documentation)} |\n"


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|")
