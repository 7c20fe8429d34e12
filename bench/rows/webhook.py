"""A thousand webhooks a second: statuses, latencies, and the time of scrapes meanwhile."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import processes
from bench.processes import Program
from bench.report import BenchmarkResult, Figure

ABOUT = "an agent with one remedy for posted alerts, posted to over 64 open connections, scraped each second"
PATH = "/api/v1/webhook/alertmanager"
POSTS_A_SECOND = 1000
CONNECTIONS = 64
ALERTS = 400  # firing at a time; each is posted, posted again, resolved, and starts again
SCRAPE_BUDGET_MS, POST_BUDGET_MS = 1000.0, 100.0


def measure(seconds: float) -> BenchmarkResult:
    """Measures scrapes without posts, then `seconds` of posts with scrapes."""
    with ExitStack() as stack:
        folder = stack.enter_context(processes.make_temporary_folder())
        agent = _start_agent(folder)
        stack.callback(agent.close)
        agent.wait_until_it_listens()
        token = (folder / "state" / "token").read_text().strip()
        time.sleep(3.0)
        calm_scrapes = asyncio.run(_time_scrapes(agent.port, 5.0))
        cpu_before = agent.read_cpu_seconds()
        statuses, posts, busy_scrapes, elapsed = asyncio.run(_post_alerts(agent.port, token, seconds))
        cpu = (agent.read_cpu_seconds() - cpu_before) / elapsed
    rate = len(posts) / elapsed
    figures = (
        Figure("posts answered a second", rate, "1/s"),
        Figure("post, median", statistics.median(posts), "ms"),
        Figure("post, 99th of a hundred", _compute_percentile(posts, 0.99), "ms", POST_BUDGET_MS),
        Figure("scrape without posts, latest", max(calm_scrapes), "ms"),
        Figure("scrape meanwhile, median", statistics.median(busy_scrapes), "ms"),
        Figure("scrape meanwhile, latest", max(busy_scrapes), "ms", SCRAPE_BUDGET_MS),
        Figure("CPU of agent and eye", cpu * 100, "% of a core"),
    )
    answer_counts = ", ".join(f"{statuses[status]} x {status}" for status in sorted(statuses))
    note = f"Target: {POSTS_A_SECOND} posts a second. Responses: {answer_counts}."
    return BenchmarkResult("webhook", ABOUT, figures, (note,))


def _start_agent(folder: Path) -> Program:
    port = processes.find_free_port()
    remedy = {"name": "tell", "match": ['alertname="RackHot"'], "sources": ["webhook"], "action": "webhook"}
    config = {
        "external_labels": {"instance": "box"},
        "engine": {"enabled": False},
        "web": {"listen": f"127.0.0.1:{port}"},
        "state": {"dir": str(folder / "state")},
        "remediation": {"builtin": False, "pause_file": str(folder / "pause")},
        "remedies": [{**remedy, "target": {"url": "http://127.0.0.1:9/"}}],
    }
    (folder / "steadytok.yml").write_text(json.dumps(config))
    arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(folder / "steadytok.yml")]
    return Program("agent", arguments, port)


async def _post_alerts(port: int, token: str, seconds: float) -> tuple[dict[int, int], list[float], list[float], float]:
    request_head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    request_head += "Content-Type: application/json\r\nContent-Length: "
    statuses: dict[int, int] = {}
    posts: list[float] = []
    started = time.perf_counter()
    deadline = started + seconds

    async def run_poster(poster_index: int) -> None:
        # Raw bytes: a client library would take as much of the machine as the agent.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = 0
        while time.perf_counter() < deadline:
            due = started + sent * CONNECTIONS / POSTS_A_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            body = _render_post(poster_index + sent * CONNECTIONS)
            start = time.perf_counter()
            writer.write(f"{request_head}{len(body)}\r\n\r\n".encode() + body)
            header = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(header.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            posts.append((time.perf_counter() - start) * 1000)
            status = int(header.split()[1])
            statuses[status] = statuses.get(status, 0) + 1
            sent += 1
        writer.close()

    scrape_task = asyncio.create_task(_time_scrapes(port, seconds))
    await asyncio.gather(*(run_poster(poster_index) for poster_index in range(CONNECTIONS)))
    return statuses, posts, await scrape_task, time.perf_counter() - started


def _render_post(number: int) -> bytes:
    """Renders one of the four posts of an alert: firing, firing again, resolved, resolved again."""
    cycle, alert_number = divmod(number, ALERTS)
    status = ("firing", "firing", "resolved", "resolved")[cycle % 4]
    labels = {"alertname": "RackHot", "instance": "box", "rack": f"r{alert_number}"}
    starts_at = f"2026-01-01T{cycle // 4 // 3600 % 24:02}:{cycle // 4 // 60 % 60:02}:{cycle // 4 % 60:02}Z"
    alert: dict[str, Any] = {
        "status": status,
        "labels": labels,
        "startsAt": starts_at,
        "fingerprint": f"{alert_number:016x}",
    }
    return json.dumps({"version": "4", "alerts": [alert]}).encode()


async def _time_scrapes(port: int, seconds: float) -> list[float]:
    """Returns the milliseconds of each scrape, one a second, over an open connection like that of Prometheus."""
    import aiohttp

    times: list[float] = []
    deadline = time.perf_counter() + seconds
    async with aiohttp.ClientSession() as session:
        while time.perf_counter() < deadline:
            start = time.perf_counter()
            async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                await response.read()
            times.append((time.perf_counter() - start) * 1000)
            await asyncio.sleep(max(0.0, 1.0 - (time.perf_counter() - start)))
    return times


def _compute_percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
