"""
Prometheus' query API, answered from History: what Grafana and `promtool query` ask works against the agent itself.

https://prometheus.io/docs/prometheus/latest/querying/api/. Every series carries `job` and `instance`, which matchers,
groupings and joins see (rules/history/snapshot.py). `lookback_delta` is refused, `stats` and exemplars have nothing to
show.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from operator import itemgetter
from typing import TypeVar

import structlog
from aiohttp import web

from agent.web import prometheus_json
from agent.web import rules_api as _rules
from agent.web.query_params import FARTHEST_MS, BadRequestError, Parameters, parameters
from agent.web.query_runner import LONGEST, Queries, QueryTimeoutError
from collectors import Labels
from rules import promql
from rules.evaluator import Rules
from rules.history.history import History
from rules.history.selection import Matchers
from rules.history.snapshot import Snapshot
from rules.promql import Effort
from rules.promql.selectors import MOST_STEPS

MOST_CELLS = 3_000_000
"""Series x steps of all parts of one query together: 27 MB, and a few times that while a node is worked out."""

TRUNCATED = "results truncated due to limit"

_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_WORTH_PACKING = 1024  # bytes
_GZIP = b"\x1f\x8b"

_T = TypeVar("_T")

Answer = Callable[[Parameters], Awaitable[bytes]]
Job = Callable[[Snapshot], bytes]


@dataclass(frozen=True)
class Sources:
    """What the API answers from; the functions are called on the event loop, for each request."""

    history: History
    rules: Callable[[], Rules]
    now_ms: Callable[[], int]
    identity: Mapping[str, str]
    """`job` and `instance`."""
    version: str
    subquery_step_ms: int


class Api:
    """The endpoints below /api/v1."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._queries = Queries()
        self._log = structlog.get_logger()

    def routes(self) -> list[web.RouteDef]:
        """Every endpoint; those of Prometheus that take a form take one here."""
        asked_both_ways: dict[str, Answer] = {
            "query": self._query,
            "query_range": self._query_range,
            "series": self._series,
            "labels": self._labels,
            "query_exemplars": self._exemplars,
        }
        asked_by_address: dict[str, Answer] = {
            "label/{name}/values": self._label_values,
            "metadata": self._metadata,
            "rules": self._rules,
            "alerts": self._alerts,
            "status/buildinfo": self._build_information,
        }
        both = [
            method(f"/api/v1/{path}", self._answering(answer))
            for path, answer in asked_both_ways.items()
            for method in (web.get, web.post)
        ]
        return both + [web.get(f"/api/v1/{path}", self._answering(answer)) for path, answer in asked_by_address.items()]

    def _answering(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            status = HTTPStatus.OK
            try:
                body = await answer(await parameters(request))
            except BadRequestError as error:
                status, body = HTTPStatus.BAD_REQUEST, prometheus_json.failure("bad_data", str(error))
            except promql.PromqlError as error:
                status, body = HTTPStatus.UNPROCESSABLE_ENTITY, prometheus_json.failure("execution", str(error))
            except QueryTimeoutError as error:
                status, body = HTTPStatus.SERVICE_UNAVAILABLE, prometheus_json.failure("timeout", str(error))
            except web.HTTPException:
                raise  # aiohttp's own answer, to a body that is too large for one
            except Exception as error:  # a fault in answering one request is that request's alone
                self._log.exception("a request to the query API failed", path=request.path)
                reason = f"internal error: {type(error).__name__}: {error}"
                status, body = HTTPStatus.INTERNAL_SERVER_ERROR, prometheus_json.failure("internal", reason)
            headers = {"Content-Type": "application/json", "Vary": "Accept-Encoding"}
            if body.startswith(_GZIP):
                headers["Content-Encoding"] = "gzip"
            return web.Response(status=status, body=body, headers=headers)

        return respond

    async def _work(self, asked: Parameters, job: Job) -> bytes:
        """The job's answer, worked out in a thread over a snapshot taken when it is its turn."""

        def prepare() -> Callable[[], bytes]:
            snapshot = self._sources.history.snapshot(self._sources.identity)
            return lambda: _packed(job(snapshot), asked.packed)

        return await self._queries.run(prepare, asked.duration("timeout", round(LONGEST * 1000)) / 1000)

    async def _query(self, asked: Parameters) -> bytes:
        at_ms = asked.time("time", self._sources.now_ms())
        limit = asked.limit()

        def job(snapshot: Snapshot) -> bytes:
            return _instant(self._compiled(asked), snapshot, at_ms, limit)

        return await self._work(asked, job)

    async def _query_range(self, asked: Parameters) -> bytes:
        start_ms, end_ms, step_ms = asked.time("start"), asked.time("end"), asked.duration("step")
        limit = asked.limit()
        if end_ms < start_ms:
            raise BadRequestError('invalid parameter "end": end timestamp must not be before start time')
        if step_ms <= 0:
            reason = "zero or negative query resolution step widths are not accepted. Try a positive integer"
            raise BadRequestError(f'invalid parameter "step": {reason}')
        if (end_ms - start_ms) // step_ms > MOST_STEPS:
            reason = f"exceeded maximum resolution of {MOST_STEPS:,} points per timeseries"
            raise BadRequestError(f"{reason}. Try decreasing the query resolution (?step=XX)")

        def job(snapshot: Snapshot) -> bytes:
            query = self._compiled(asked)
            if query.kind not in ("vector", "scalar"):
                shown = {"matrix": "range vector"}.get(query.kind, query.kind)
                reason = "must be Scalar or instant Vector"
                raise BadRequestError(f'invalid expression type "{shown}" for range query, {reason}')
            matrix = query.over(snapshot, start_ms, end_ms, step_ms, Effort(MOST_CELLS))
            kept, warnings = _limited(sorted(range(len(matrix)), key=matrix.labels.__getitem__), limit)
            return prometheus_json.success(prometheus_json.matrix(matrix, kept), warnings)

        return await self._work(asked, job)

    def _compiled(self, asked: Parameters) -> promql.Query:
        if asked.text("lookback_delta"):
            raise BadRequestError('invalid parameter "lookback_delta": it is always 5m here; leave it out')
        try:
            return promql.compile(asked.text("query"), subquery_step_ms=self._sources.subquery_step_ms)
        except promql.PromqlError as error:
            raise BadRequestError(f'invalid parameter "query": {error}') from None

    async def _series(self, asked: Parameters) -> bytes:
        if not asked.texts("match[]"):
            raise BadRequestError("no match[] parameter provided")
        return await self._found(asked, lambda found: [dict(labels) for labels in sorted(set(found))])

    async def _labels(self, asked: Parameters) -> bytes:
        return await self._found(asked, lambda found: sorted({name for labels in found for name, _ in labels}))

    async def _label_values(self, asked: Parameters) -> bytes:
        wanted = asked.text("name")
        if not _LABEL_NAME.fullmatch(wanted):
            raise BadRequestError(f'invalid label name: "{wanted}"')

        def values(found: Iterable[Labels]) -> list[str]:
            return sorted({value for labels in found for name, value in labels if name == wanted})

        return await self._found(asked, values)

    async def _found(self, asked: Parameters, listed: Callable[[Iterable[Labels]], Sequence[object]]) -> bytes:
        """What the series that match show, as a list."""
        start_ms, end_ms = asked.time("start", -FARTHEST_MS), asked.time("end", FARTHEST_MS)
        limit = asked.limit()

        def job(snapshot: Snapshot) -> bytes:
            selectors = _selectors(asked) or [()]
            found = (labels for each in selectors for labels in snapshot.series(each, start_ms, end_ms))
            kept, warnings = _limited(listed(found), limit)
            return prometheus_json.plain(kept, warnings)

        return await self._work(asked, job)

    async def _metadata(self, asked: Parameters) -> bytes:
        limit, each = asked.limit(), asked.limit("limit_per_metric")

        def job(snapshot: Snapshot) -> bytes:
            found: dict[str, list[dict[str, str]]] = {}
            for metric in snapshot.metrics():
                meanings = found.setdefault(metric.name, [])
                if asked.text("metric") in ("", metric.name) and (not each or len(meanings) < each):
                    meanings.append({"type": metric.kind, "help": metric.help, "unit": ""})
            shown = [name for name, meanings in sorted(found.items()) if meanings]
            return prometheus_json.plain({name: found[name] for name in (shown[:limit] if limit else shown)})

        return await self._work(asked, job)

    async def _exemplars(self, asked: Parameters) -> bytes:
        return prometheus_json.plain([])

    async def _rules(self, asked: Parameters) -> bytes:
        return prometheus_json.plain(_rules.groups(self._sources.rules(), self._sources.identity, asked))

    async def _alerts(self, asked: Parameters) -> bytes:
        return prometheus_json.plain(_rules.alerts(self._sources.rules(), self._sources.identity))

    async def _build_information(self, asked: Parameters) -> bytes:
        unknown = dict.fromkeys(("revision", "branch", "buildUser", "buildDate", "goVersion"), "")
        return prometheus_json.plain({"version": self._sources.version, **unknown})


def _instant(query: promql.Query, snapshot: Snapshot, at_ms: int, limit: int) -> bytes:
    effort = Effort(MOST_CELLS)
    if query.kind == "string":
        return prometheus_json.success(prometheus_json.string(query.string(), at_ms))
    if query.kind == "matrix":
        series = sorted(query.samples(snapshot, at_ms, effort), key=itemgetter(0))
        found, warnings = _limited(series, limit)
        return prometheus_json.success(prometheus_json.samples(found), warnings)
    result = query.at(snapshot, at_ms, effort)
    if query.kind == "scalar":
        return prometheus_json.success(prometheus_json.scalar(float(result.values[0]), at_ms))
    kept, warnings = _limited(list(result), limit)
    return prometheus_json.success(prometheus_json.vector(kept, at_ms), warnings)


def _selectors(asked: Parameters) -> list[Matchers]:
    try:
        return [promql.selector(text) for text in asked.texts("match[]")]
    except promql.PromqlError as error:
        raise BadRequestError(f'invalid parameter "match[]": {error}') from None


def _limited(found: Sequence[_T], limit: int) -> tuple[Sequence[_T], tuple[str, ...]]:
    return (found[:limit], (TRUNCATED,)) if 0 < limit < len(found) else (found, ())


def _packed(body: bytes, wanted: bool) -> bytes:
    # Level 1: most of the saving for a fraction of the time.
    return gzip.compress(body, compresslevel=1) if wanted and len(body) > _WORTH_PACKING else body
