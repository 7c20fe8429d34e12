"""The query API of a small History, served on loopback."""

from __future__ import annotations

import asyncio
import urllib.parse
from pathlib import Path
from typing import Any

import aiohttp

from agent.web.context import WebContext
from agent.web.query_api import QueryApi
from agent.web.server import WebServer
from collectors import Sample, counter, gauge
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules
from tests.agent.web.contexts import build_context

NOW_MS = 1_700_000_000_000
NOW = NOW_MS // 1000
HEAT = gauge("heat_celsius", "How hot.")
OPS = counter("ops_total", "How many.")
IDENTITY = {"instance": "box", "job": "steadytok"}
RULES = """
groups:
- name: first
  interval: 5s
  limit: 7
  rules:
  - {record: 'heat:max', expr: max(heat_celsius)}
  - alert: Hot
    expr: heat_celsius > 41
    for: 1m
    keep_firing_for: 2m
    labels: {severity: page}
    annotations: {summary: 'DIMM {{ $labels.dimm }} is hot'}
- name: second
  rules:
  - {alert: Cold, expr: heat_celsius < 0}
  - {record: broken, expr: heat_celsius + on() heat_celsius}
"""


class ServedApi:
    """The API of one History, requested over a socket."""

    def __init__(self, tmp_path: Path) -> None:
        path = tmp_path / "rules.yml"
        path.write_text(RULES)
        self.history = History(3_600_000, identity=IDENTITY)
        for row in range(600):
            heats = [Sample(HEAT, (("dimm", name),), 40.0 + number + row % 2) for number, name in enumerate("ab")]
            self.history.record("hwmon", NOW_MS - 1000 * (599 - row), [*heats, Sample(OPS, (), 2.5 * row)])
        self.rules = RuleEvaluator(load_rules([path]), interval_ms=1000, external_labels={}, external_url="http://x")
        self.rules.evaluate(self.history, NOW_MS - 90_000)
        self.rules.evaluate(self.history, NOW_MS)

    def build_context(self) -> WebContext:
        return build_context(
            history=self.history,
            rules=lambda: self.rules,
            now_ms=lambda: NOW_MS,
            identity=IDENTITY,
            version="1.2.3",
            subquery_step_ms=1000,
            external_labels=IDENTITY,
            external_url="http://x",
            since_tick=lambda: 0.5,
        )

    def get(self, path: str, **parameters: Any) -> tuple[int, Any]:
        return asyncio.run(self._ask("GET", path, parameters))

    def post(self, path: str, **parameters: Any) -> tuple[int, Any]:
        return asyncio.run(self._ask("POST", path, parameters))

    def get_data(self, path: str, **parameters: Any) -> Any:
        status, answer = self.get(path, **parameters)
        assert status == 200, answer
        assert answer["status"] == "success"
        return answer["data"]

    def get_error(self, path: str, **parameters: Any) -> tuple[int, str, str]:
        status, answer = self.get(path, **parameters)
        assert answer["status"] == "error"
        return status, answer["errorType"], answer["error"]

    async def _ask(self, method: str, path: str, parameters: dict[str, Any]) -> tuple[int, Any]:
        pairs = urllib.parse.urlencode({name.replace("match", "match[]"): v for name, v in parameters.items()}, True)
        server = WebServer(
            metrics=lambda: bytes,
            tick_number=int,
            since_tick=lambda: None,
            interval=1.0,
            routes=QueryApi(self.build_context()).routes(),
        )
        port = await server.start("127.0.0.1", 0)
        try:
            url = f"http://127.0.0.1:{port}/api/v1/{path}"
            headers = {"Content-Type": "application/x-www-form-urlencoded"} if method == "POST" else {}
            async with aiohttp.ClientSession() as client:
                address = url if method == "POST" else f"{url}?{pairs}"
                async with client.request(method, address, data=pairs.encode() or None, headers=headers) as answer:
                    assert answer.content_type == "application/json"
                    return answer.status, await answer.json()
        finally:
            await server.close()
