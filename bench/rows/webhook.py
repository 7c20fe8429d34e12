"""A thousand webhooks a second: whether each is answered, how soon, and whether scrapes still come on time."""

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
from bench.report import Figure, Row

ABOUT = "an agent with one remedy for posted alerts, posted to over 64 kept connections, scraped each second"
PATH = "/api/v1/webhook/alertmanager"
POSTS_A_SECOND = 1000
CONNECTIONS = 64
ALERTS = 400  # that fire at a time; each is told, told again, resolved, and begins anew
SCRAPE_BUDGET_MS, POST_BUDGET_MS = 1000.0, 100.0


def measure(seconds: float) -> Row:
    """So many seconds of posts; the calm scrape before them is what the busy one is held against."""
    with ExitStack() as stack:
        place = stack.enter_context(processes.folder())
        agent = _agent(place)
        stack.callback(agent.end)
        agent.wait_until_it_listens()
        token = (place / "state" / "token").read_text().strip()
        time.sleep(3.0)
        calm = asyncio.run(_scrapes(agent.port, 5.0))
        before = agent.cpu_seconds()
        statuses, posts, busy, took = asyncio.run(_load(agent.port, token, seconds))
        cpu = (agent.cpu_seconds() - before) / took
    rate = len(posts) / took
    figures = (
        Figure("posts answered a second", rate, "1/s"),
        Figure("post, median", statistics.median(posts), "ms"),
        Figure("post, 99th of a hundred", _percentile(posts, 0.99), "ms", POST_BUDGET_MS),
        Figure("scrape while nobody posts, latest", max(calm), "ms"),
        Figure("scrape meanwhile, median", statistics.median(busy), "ms"),
        Figure("scrape meanwhile, latest", max(busy), "ms", SCRAPE_BUDGET_MS),
        Figure("CPU of agent and eye", cpu * 100, "% of a core"),
    )
    answers = ", ".join(f"{statuses[status]} x {status}" for status in sorted(statuses))
    told = f"{POSTS_A_SECOND} posts a second were asked for, and answered with {answers}."
    return Row("webhook", ABOUT, figures, (told,))


def _agent(place: Path) -> Program:
    port = processes.free_port()
    remedy = {"name": "tell", "match": ['alertname="RackHot"'], "sources": ["webhook"], "action": "webhook"}
    document = {
        "external_labels": {"instance": "box"},
        "engine": {"enabled": False},
        "web": {"listen": f"127.0.0.1:{port}"},
        "state": {"dir": str(place / "state")},
        "remediation": {"builtin": False, "pause_file": str(place / "pause")},
        "remedies": [{**remedy, "target": {"url": "http://127.0.0.1:9/"}}],
    }
    (place / "steadytok.yml").write_text(json.dumps(document))
    arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(place / "steadytok.yml")]
    return Program("agent", arguments, port)


async def _load(port: int, token: str, seconds: float) -> tuple[dict[int, int], list[float], list[float], float]:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: "
    statuses: dict[int, int] = {}
    posts: list[float] = []
    began = time.perf_counter()
    until = began + seconds

    async def poster(mine: int) -> None:
        # Bytes and not a client library, which would take as much of the machine as the agent does.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = 0
        while time.perf_counter() < until:
            due = began + sent * CONNECTIONS / POSTS_A_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            body = _body(mine + sent * CONNECTIONS)
            start = time.perf_counter()
            writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
            told = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(told.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            posts.append((time.perf_counter() - start) * 1000)
            status = int(told.split()[1])
            statuses[status] = statuses.get(status, 0) + 1
            sent += 1
        writer.close()

    scraping = asyncio.create_task(_scrapes(port, seconds))
    await asyncio.gather(*(poster(mine) for mine in range(CONNECTIONS)))
    return statuses, posts, await scraping, time.perf_counter() - began


def _body(number: int) -> bytes:
    """One alert's life in four posts: told, told again, resolved, resolved again."""
    life, which = divmod(number, ALERTS)
    status = ("firing", "firing", "resolved", "resolved")[life % 4]
    labels = {"alertname": "RackHot", "instance": "box", "rack": f"r{which}"}
    begun = f"2026-01-01T{life // 4 // 3600 % 24:02}:{life // 4 // 60 % 60:02}:{life // 4 % 60:02}Z"
    alert: dict[str, Any] = {"status": status, "labels": labels, "startsAt": begun, "fingerprint": f"{which:016x}"}
    return json.dumps({"version": "4", "alerts": [alert]}).encode()


async def _scrapes(port: int, seconds: float) -> list[float]:
    """Milliseconds of each scrape, one a second, over a connection of its own as Prometheus keeps one."""
    import aiohttp

    times: list[float] = []
    until = time.perf_counter() + seconds
    async with aiohttp.ClientSession() as session:
        while time.perf_counter() < until:
            start = time.perf_counter()
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                await answer.read()
            times.append((time.perf_counter() - start) * 1000)
            await asyncio.sleep(max(0.0, 1.0 - (time.perf_counter() - start)))
    return times


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
