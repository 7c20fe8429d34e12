"""The page of every metric, from what the collectors and the agent declare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType

from prometheus_client import CollectorRegistry

from agent.alerting.notifier import Counters
from agent.sampling import plugins
from agent.sampling.plugins import Collector
from agent.selfmetrics import definitions
from collectors import Metric

HEAD = """# Metrics reference

What `/metrics` and the query API have, by collector. Which of them a host has depends on its hardware, its kernel and
what the agent may read: `steadytok check` says so. In the query API, and in alerts, each has the labels `job` and
`instance` besides. `meminfo` and `node_meminfo` also pass on fields that a newer kernel has and this list has not.

"""


def page() -> str:
    """The whole page, as Markdown."""
    parts = [HEAD]
    for name, module in sorted(plugins.modules().items()):
        parts += _collector(name, module)
    parts += [
        "## The agent\n\nWhat it measures of itself, of engines and of remedies.\n\n",
        *_table(definitions.METRICS),
    ]
    parts += ["### Counted for the scrape alone\n\nThe query API does not have these.\n\n", *_counters()]
    return "".join(parts).rstrip() + "\n"


def _collector(name: str, module: ModuleType) -> Iterator[str]:
    bound = plugins.bind(module, name, interval=None, deadline=None, own=None)
    yield f"## {name}\n\n{_about(module)}\n\n{_when(bound)}\n\n"
    yield from _table(bound.metrics)


def _about(module: ModuleType) -> str:
    """The first paragraphs of the module: what it reads, and what fools it."""
    return (module.__doc__ or "").strip()


def _when(collector: Collector) -> str:
    where = " in the eye, a process that can be killed" if collector.isolated else ""
    if collector.after:
        return f"Made of: {', '.join(collector.after)}."
    return f"Read every {collector.interval:g} s{where}."


def _table(metrics: Iterable[Metric]) -> Iterator[str]:
    yield "| metric | type | what it is |\n|---|---|---|\n"
    for metric in metrics:
        yield f"| `{metric.name}` | {metric.kind} | {_cell(metric.help)} |\n"
    yield "\n"


def _counters() -> Iterator[str]:
    registry = CollectorRegistry(auto_describe=False)
    Counters(registry).follow({""})
    yield "| metric | type | what it is |\n|---|---|---|\n"
    for family in registry.collect():
        tail = "_total" if family.type == "counter" else ""
        yield f"| `{family.name}{tail}` | {family.type} | {_cell(family.documentation)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
