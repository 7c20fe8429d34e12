"""The agent and a Prometheus that scrapes it evaluate one rule file that asks for `job` and `instance`: one answer."""

from __future__ import annotations

import json
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests import processes

pytestmark = [pytest.mark.deep, pytest.mark.timeout(180)]

IDENTITY = {"job": "steadytok", "instance": "box1"}
TOTAL = "steadytok_node_meminfo_mem_total_bytes"
SEES = '{{ $labels.instance }}/{{ $labels.job }} {{ range query "all:total" }}{{ .Labels }}{{ end }}'
EXPRESSIONS = {
    "Job": f'{TOTAL}{{job="steadytok"}} > 0',
    "Instance": f'{TOTAL}{{instance=~"box.",node="0"}} > 0',
    "Other": f'{TOTAL}{{instance!="box1"}} > 0',
    "Nameless": f'count by (job, __name__) ({{instance="box1",__name__=~"{TOTAL}"}}) > 0',
    "Grouped": f"sum by (instance) ({TOTAL}) > 0",
    "Without": f"sum without (node) ({TOTAL}) > 0",
    "Joined": f"{TOTAL} == on (job, instance, node) whole:total",
    "Summed": f"sum({TOTAL}) == all:total",
    "Kept": 'count by (job, instance) (ALERTS{alertname="Grouped"}) > 0',
    "Absent": f'absent({TOTAL}{{job="steadytok"}})',
    "Missing": f'absent({TOTAL}{{job="node"}})',
    "Window": f'count_over_time({TOTAL}{{job="steadytok"}}[3s]) > 0',
}


def _rule_file() -> str:
    rules: list[dict[str, Any]] = [
        {"record": "whole:total", "expr": TOTAL},
        {"record": "all:total", "expr": f"sum({TOTAL})"},
    ]
    rules += [
        {"alert": name, "expr": expr, "labels": {"whose": "{{ $labels.instance }}"}, "annotations": {"sees": SEES}}
        for name, expr in EXPRESSIONS.items()
    ]
    return json.dumps({"groups": [{"name": "identity", "rules": rules}]})  # JSON is YAML


def test_one_rule_file_has_one_answer(tmp_path: Path, two_nodes: Path) -> None:
    """Alerts with labels and annotations, and recorded series; no scraped series has a label exported_job."""
    port, own_port = processes.find_free_port(), processes.find_free_port()
    (tmp_path / "rules.yml").write_text(_rule_file())
    ours = {
        "engine": {"enabled": False},
        "external_labels": {"instance": "box1"},
        "rules": {"builtin": False, "files": [str(tmp_path / "rules.yml")]},
        "state": {"dir": str(tmp_path / "state")},
        "web": {"listen": f"127.0.0.1:{port}"},
    }
    target = {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": "box1"}}
    theirs = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(tmp_path / "rules.yml")],
        "scrape_configs": [{"job_name": "steadytok", "static_configs": [target]}],
    }
    (tmp_path / "steadytok.yml").write_text(json.dumps(ours))
    (tmp_path / "prometheus.yml").write_text(json.dumps(theirs))
    places = ["--config", str(tmp_path / "steadytok.yml"), "--root", str(two_nodes)]
    agent = [sys.executable, "-m", "agent", "run", "--plain", *places]
    prometheus = [
        processes.require_program("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{own_port}",
    ]
    with processes.run_process(agent, tmp_path / "log"), processes.run_process(prometheus, tmp_path / "prometheus.log"):
        expected_names = EXPRESSIONS.keys() - {"Other", "Absent"}
        processes.wait_until(
            lambda: all({name for name, *_ in _alerts(each)} == expected_names for each in (own_port, port)),
            60,
            "all alerts",
        )
        assert _alerts(port) == _alerts(own_port)
        assert _series(port, '{__name__=~"(whole|all):total"}') == _series(own_port, '{__name__=~"(whole|all):total"}')
        assert _series(own_port, '{exported_job!=""}') == _series(own_port, '{exported_instance!=""}') == []


def _data(port: int, path: str) -> Any:
    return json.loads(processes.fetch(f"http://127.0.0.1:{port}/api/v1/{path}") or '{"data": {}}')["data"]


def _alerts(port: int) -> list[tuple[str, str, list[tuple[str, str]], list[tuple[str, str]]]]:
    """Name, state, labels and annotations; our API tells every alert with the identity, as it leaves the host."""
    return sorted(
        (
            alert["labels"]["alertname"],
            alert["state"],
            sorted({**IDENTITY, **alert["labels"]}.items()),
            sorted(alert["annotations"].items()),
        )
        for alert in _data(port, "alerts").get("alerts", [])
    )


def _series(port: int, query: str) -> list[tuple[list[tuple[str, str]], str]]:
    """Labels and value, with the identity as above."""
    series = _data(port, f"query?{urllib.parse.urlencode({'query': query})}").get("result", [])
    return sorted((sorted({**IDENTITY, **each["metric"]}.items()), each["value"][1]) for each in series)
