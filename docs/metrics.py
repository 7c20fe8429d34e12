"""Renders the page of every metric from the declarations of the collectors and the agent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType

from prometheus_client import CollectorRegistry

from agent.alerting.notifier import NotifierCounters
from agent.sampling import plugins
from agent.sampling.plugins import Collector
from agent.selfmetrics import definitions
from agent.selfmetrics.registry import RegistryReader
from collectors import Metric

HEAD = """# Metrics reference

The metrics of `/metrics` and of the query API, by collector. A host has a part of them, depending on its hardware, its
kernel and the agent's rights: `steadytok check` lists them. In the query API and in alerts each also has the labels
`job` and `instance`. `meminfo` and `node_meminfo` also export fields of newer kernels that this list lacks.

"""


def render_page() -> str:
    """Returns the whole page as Markdown."""
    parts = [HEAD]
    for name, module in sorted(plugins.load_collectors().items()):
        parts += _render_collector(name, module)
    parts += [
        "## The agent\n\nMetrics of the agent itself, of engines and of remedies.\n\n",
        *_render_table(definitions.METRICS),
    ]
    parts += ["### Notifications\n\n", *_render_counters()]
    return "".join(parts).rstrip() + "\n"


def _render_collector(name: str, module: ModuleType) -> Iterator[str]:
    collector = plugins.bind_collector(module, name, interval=None, deadline=None, config=None)
    yield f"## {name}\n\n{_read_docstring(module)}\n\n{_describe_schedule(collector)}\n\n"
    yield from _render_table(collector.metrics)


def _read_docstring(module: ModuleType) -> str:
    """Returns the module's docstring, which names its sources and their pitfalls."""
    return (module.__doc__ or "").strip()


def _describe_schedule(collector: Collector) -> str:
    location = " in the eye, a process that can be killed" if collector.isolated else ""
    if collector.after:
        return f"Derived from: {', '.join(collector.after)}."
    return f"Read every {collector.interval:g} s{location}."


def _render_table(metrics: Iterable[Metric]) -> Iterator[str]:
    yield "| metric | type | description |\n|---|---|---|\n"
    for metric in metrics:
        yield f"| `{metric.name}` | {metric.kind} | {_escape_cell(metric.help)} |\n"
    yield "\n"


def _render_counters() -> Iterator[str]:
    registry = CollectorRegistry(auto_describe=False)
    NotifierCounters(registry).set_targets({""})
    yield from _render_table(dict.fromkeys(sample.metric for sample in RegistryReader(registry).read()))


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|")
