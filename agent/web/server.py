"""The HTTP server: /metrics, /-/healthy, /-/ready, and the routes of the APIs."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agent.runtime.step_guard import StepFault
from agent.web.access import MAX_BODY, AccessControl
from agent.web.exposition import CONTENT_TYPE
from agent.web.listener import IDLE_TIMEOUT, Listener
from agent.web.shared_rendering import Prepare, SerialRunner, SharedRendering

OPENAPI_FILE = Path(__file__).with_name("openapi.yml")
STALLED_INTERVALS = 10  # intervals without a tick, or failures of one step, after which the agent is unhealthy
LINGER_SECONDS = 0.5  # seconds for which the rest of a refused body is discarded, so that the client reads the reason
MAX_ADDRESS_BYTES = 256 << 10  # an expression may have 64 KiB, before its brackets become %28


class _ServerFaultsOnly(logging.Filter):
    """Drops log lines about requests that are not HTTP: the client's fault, and they can come in floods."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def _drop_client_faults(logger: logging.Logger) -> logging.Logger:
    logger.filters[:] = [_ServerFaultsOnly()]
    return logger


class WebServer:
    """Serves the results of functions; reads nothing itself."""

    def __init__(
        self,
        *,
        metrics: Prepare,
        tick_number: Callable[[], int],
        since_tick: Callable[[], float | None],
        step_faults: Callable[[], Sequence[StepFault]] = tuple,
        interval: float,
        routes: Iterable[web.RouteDef] = (),
        access_control: AccessControl | None = None,
    ) -> None:
        self._metrics = metrics
        self._renderings = SharedRendering(tick_number, SerialRunner("render /metrics").run)
        self._since_tick = since_tick
        self._step_faults = step_faults
        self._interval = interval
        self._routes = tuple(routes)
        self._access_control = access_control
        self._openapi = OPENAPI_FILE.read_bytes()
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None
        self._watch_task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the port; the kernel chooses one for port 0. Raises OSError."""
        access_control = self._access_control
        app = web.Application(
            client_max_size=MAX_BODY, middlewares=[] if access_control is None else [access_control.make_middleware()]
        )
        app.add_routes(
            [
                web.get("/metrics", self._serve_metrics),
                web.get("/-/healthy", self._serve_health),
                web.get("/-/ready", self._serve_readiness),
                web.get(f"/{OPENAPI_FILE.name}", self._serve_openapi),
                *self._routes,
            ]
        )
        # handler_cancellation: gives up a query whose client is gone.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=1.0,
            handler_cancellation=True,
            max_line_size=MAX_ADDRESS_BYTES,
            keepalive_timeout=IDLE_TIMEOUT,
            lingering_time=LINGER_SECONDS,
            logger=_drop_client_faults(logging.getLogger("steadytok.http")),
            auto_decompress=False,  # a few bytes could expand to a gigabyte
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = Listener(
            self._runner.server, None if access_control is None else access_control.web_config.context
        )
        bound_port = self._listener.listen(host, port)
        if access_control is not None:
            access_control.listener = self._listener
            self._watch_task = asyncio.get_running_loop().create_task(
                access_control.watch_config(), name="web configuration"
            )
        return bound_port

    async def close(self) -> None:
        """Stops listening."""
        if self._watch_task is not None:
            self._watch_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch_task
        if self._listener is not None:
            await self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._access_control is not None:
            self._access_control.close()

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        body = await self._renderings.render("plain", self._metrics)
        headers = {"Content-Type": CONTENT_TYPE, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            # Level 1: level 9 takes 8 ms for 2,000 series and saves a fifth of the bytes.
            plain = body
            body = await self._renderings.render(("gzip", plain), lambda: lambda: gzip.compress(plain, compresslevel=1))
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def _serve_openapi(self, request: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type="application/yaml", charset="utf-8")

    async def _serve_health(self, request: web.Request) -> web.Response:
        since = self._since_tick()
        if since is not None and since > STALLED_INTERVALS * self._interval:
            return web.Response(status=503, text=f"no tick for {since:.1f} s\n")
        faults = self._step_faults()
        lasting = [str(fault) for fault in faults if fault.times >= STALLED_INTERVALS]
        if lasting:
            reason = f"failed {STALLED_INTERVALS} times or more: {', '.join(lasting)}; the log has the reasons\n"
            return web.Response(status=503, text=reason)
        exceptions = f", but failed just now: {', '.join(map(str, faults))}; the log has the reasons" if faults else "."
        return web.Response(text=f"steadytok is healthy{exceptions}\n")

    async def _serve_readiness(self, request: web.Request) -> web.Response:
        if self._since_tick() is None:
            return web.Response(status=503, text="waiting for the first readings\n")
        return web.Response(text="steadytok is ready.\n")
