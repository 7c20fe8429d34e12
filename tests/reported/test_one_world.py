"""A scrape, a query and a rule of a running agent see the same series with the same labels."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import processes
from tests.agent.test_app import RunningAgent, run_agent
from tests.conftest import MACHINES, load

RULES = """\
groups:
- name: probe
  rules:
  - {alert: Always, expr: vector(1), labels: {severity: none}}
  - {alert: PerNode, expr: steadytok_node_meminfo_mem_total_bytes > 0}
  - {record: 'probe:total', expr: sum(steadytok_node_meminfo_mem_total_bytes)}
  - {record: 'probe:node', expr: steadytok_node_meminfo_mem_total_bytes}
  - {record: 'probe:refused', expr: sum(steadytok_http_refused_total)}
"""
QUERIES = (
    'count(ALERTS{job="steadytok"})',
    'count(ALERTS{job=""})',
    'count by (job, instance) (ALERTS{alertname=~"Always|PerNode"})',
    "count by (job, instance) (ALERTS_FOR_STATE)",
    "count by (job, instance) (probe:total)",
    "count by (job, instance) (probe:node)",
    "count(probe:total / on() sum(steadytok_node_meminfo_mem_total_bytes))",
    "count(probe:total / sum(steadytok_node_meminfo_mem_total_bytes))",
    "count(probe:node / steadytok_node_meminfo_mem_total_bytes)",
    "count by (job, instance, reason) (steadytok_http_refused_total)",
    "count by (job) (steadytok_notifications_invalid_total)",
)


@pytest.fixture(name="running", scope="module")
def _start_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    home = tmp_path_factory.mktemp("agent")
    echoes = "".join(f"  - {{record: 'echo:{i}', expr: '{query}'}}\n" for i, query in enumerate(QUERIES))
    (home / "probe.yml").write_text(RULES + echoes)
    load(MACHINES / "two_nodes.py").build(home / "root", {})
    with run_agent(home, home / "root", "rules: {builtin: false, files: [probe.yml]}\n") as agent:
        yield agent


def ask(running: RunningAgent, query: str) -> list[dict[str, Any]]:
    answer = processes.fetch(f"http://{running.address}/api/v1/query?query={urllib.parse.quote(query)}") or "{}"
    result: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
    return result


def test_every_series_of_a_scrape_is_answered_by_a_query(running: RunningAgent) -> None:
    """Each series of /metrics, the agent's own counters included, is in History with its labels and the identity."""
    text = processes.fetch(f"http://{running.address}/metrics") or ""
    scraped = {
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    queried = set()
    for element in ask(running, '{job="steadytok",instance!=""}'):
        labels = {name: value for name, value in element["metric"].items() if name not in ("job", "instance")}
        queried.add((labels.pop("__name__"), *sorted(labels.items())))

    assert {name for name, *_ in scraped} >= {"steadytok_http_refused_total", "steadytok_tick_late_seconds"}
    assert scraped - queried == set()


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_a_rule_records_what_a_query_answers(running: RunningAgent, number: int) -> None:
    """The same expression gives the same label sets and values through /api/v1/query and through a recording rule."""

    def drop_name(name: str) -> list[tuple[dict[str, str], str]]:
        return [
            ({label: value for label, value in element["metric"].items() if label != "__name__"}, element["value"][1])
            for element in ask(running, name)
        ]

    processes.wait_until(lambda: drop_name(f"echo:{number}") == drop_name(QUERIES[number]), 30, QUERIES[number])
