"""
Prometheus' query API, answered from History, so that Grafana and `promtool query` work against the agent itself.

https://prometheus.io/docs/prometheus/latest/querying/api/. Series have the labels that rules see: recorded ones and
ALERTS those of their rule, sampled ones `job` and `instance` too. `lookback_delta` is refused; `stats` and exemplars
are empty.
"""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http import HTTPStatus
from operator import itemgetter
from typing import TypeVar

import structlog
from aiohttp import web

from agent.runtime.errors import describe_fault
from agent.web import prometheus_json, rules_api
from agent.web.context import WebContext
from agent.web.query_params import FARTHEST_MS, BadRequestError, Parameters, read_parameters, unescape_name
from agent.web.query_runner import MAX_QUERY_SECONDS, QueryRunner, QueryTimeoutError
from agent.web.shared_rendering import SharedRendering
from agent.web.status_api import StatusApi, summarize_series
from collectors import Labels
from rules import promql
from rules.history.snapshot import Snapshot
from rules.matchers import Matchers, is_valid_name
from rules.promql import QueryBudget
from rules.promql.selectors import MAX_STEPS

MAX_CELLS = 3_000_000
"""Series x steps of all parts of one query together: 27 MB, and several times that during the evaluation."""

MAX_LABEL_BYTES = 16 << 20
"""Estimated bytes of the labels that one query makes: two run at a time, and the agent is to stay below 256 MB."""

TRUNCATED = "results truncated due to limit"

_CORS_HEADERS = {
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type, Origin",
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Date",
}
_GZIP_THRESHOLD = 1024  # bytes
_GZIP_MAGIC = b"\x1f\x8b"

_T = TypeVar("_T")

Endpoint = Callable[[Parameters], Awaitable[bytes]]
Job = Callable[[Snapshot], bytes]


class QueryApi:
    """Serves the endpoints below /api/v1."""

    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._queries = QueryRunner()
        self._rule_renderings = SharedRendering(
            lambda: (context.tick_number(), context.rules()), QueryRunner(max_running=1).run
        )
        self._status = StatusApi(context)
        self._log = structlog.get_logger()

    def routes(self) -> list[web.RouteDef]:
        """Returns a route for every endpoint; as in Prometheus, some take a form too."""
        get_and_post: dict[str, Endpoint] = {
            "query": self._serve_query,
            "query_range": self._serve_query_range,
            "series": self._serve_series,
            "labels": self._serve_labels,
            "query_exemplars": self._serve_exemplars,
            "format_query": self._serve_formatted_query,
        }
        get_only: dict[str, Endpoint] = {
            "label/{name}/values": self._serve_label_values,
            "metadata": self._serve_metadata,
            "rules": self._serve_rules,
            "alerts": self._serve_alerts,
            "targets": self._make_endpoint(StatusApi.list_targets),
            "status/buildinfo": self._make_endpoint(StatusApi.describe_build),
            "status/runtimeinfo": self._make_endpoint(StatusApi.describe_runtime),
            "status/config": self._make_endpoint(StatusApi.describe_config),
            "status/flags": self._make_endpoint(StatusApi.list_flags),
            "status/walreplay": self._make_endpoint(StatusApi.describe_replay),
            "status/tsdb": self._serve_series_statistics,
        }
        routes = [
            method(f"/api/v1/{path}", self._wrap_route(endpoint))
            for path, endpoint in get_and_post.items()
            for method in (web.get, web.post)
        ]
        routes += [web.get(f"/api/v1/{path}", self._wrap_route(endpoint)) for path, endpoint in get_only.items()]
        return routes + [web.options(f"/api/v1/{path}", _answer_preflight) for path in (*get_and_post, *get_only)]

    def _make_endpoint(self, describe: Callable[[StatusApi], object]) -> Endpoint:
        async def serve(params: Parameters) -> bytes:
            return prometheus_json.encode_data(describe(self._status))

        return serve

    def _wrap_route(self, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def respond(request: web.Request) -> web.Response:
            status = HTTPStatus.OK
            try:
                body = await endpoint(await read_parameters(request))
            except BadRequestError as error:
                status, body = HTTPStatus.BAD_REQUEST, prometheus_json.encode_failure("bad_data", str(error))
            except promql.PromqlError as error:
                status, body = HTTPStatus.UNPROCESSABLE_ENTITY, prometheus_json.encode_failure("execution", str(error))
            except QueryTimeoutError as error:
                status, body = HTTPStatus.SERVICE_UNAVAILABLE, prometheus_json.encode_failure("timeout", str(error))
            except web.HTTPException:
                raise  # aiohttp's own answer, such as to a body that is too large
            except Exception as error:  # a fault in one request ends only that request
                self._log.exception("a request to the query API failed", path=request.path)
                reason = f"internal error: {describe_fault(error)}"
                status, body = HTTPStatus.INTERNAL_SERVER_ERROR, prometheus_json.encode_failure("internal", reason)
            headers = {"Content-Type": "application/json", "Vary": "Accept-Encoding", **_build_cors_headers(request)}
            if body.startswith(_GZIP_MAGIC):
                headers["Content-Encoding"] = "gzip"
            return web.Response(status=status, body=body, headers=headers)

        return respond

    async def _run_job(self, params: Parameters, job: Job) -> bytes:
        """Runs a job in a thread, over a snapshot taken when the job's turn comes."""

        def prepare() -> Callable[[], bytes]:
            snapshot = self._context.history.snapshot()
            return lambda: _compress(job(snapshot), params.accepts_gzip)

        return await self._queries.run(prepare, params.get_duration("timeout", round(MAX_QUERY_SECONDS * 1000)) / 1000)

    async def _serve_query(self, params: Parameters) -> bytes:
        at_ms = params.get_time("time", self._context.now_ms())
        limit = params.get_limit()

        def job(snapshot: Snapshot) -> bytes:
            return _evaluate_instant(self._compile_query(params), snapshot, at_ms, limit)

        return await self._run_job(params, job)

    async def _serve_query_range(self, params: Parameters) -> bytes:
        start_ms, end_ms, step_ms = params.get_time("start"), params.get_time("end"), params.get_duration("step")
        limit = params.get_limit()
        if end_ms < start_ms:
            raise BadRequestError('invalid parameter "end": end timestamp must not be before start time')
        if step_ms <= 0:
            reason = "zero or negative query resolution step widths are not accepted. Try a positive integer"
            raise BadRequestError(f'invalid parameter "step": {reason}')
        if (end_ms - start_ms) // step_ms > MAX_STEPS:
            reason = f"exceeded maximum resolution of {MAX_STEPS:,} points per timeseries"
            raise BadRequestError(f"{reason}. Try decreasing the query resolution (?step=XX)")

        def job(snapshot: Snapshot) -> bytes:
            query = self._compile_query(params)
            if query.kind not in ("vector", "scalar"):
                kind = {"matrix": "range vector"}.get(query.kind, query.kind)
                reason = "must be Scalar or instant Vector"
                raise BadRequestError(f'invalid expression type "{kind}" for range query, {reason}')
            matrix = query.evaluate_range(snapshot, start_ms, end_ms, step_ms, _make_budget())
            prometheus_json.check_size(len(matrix))
            rows, warnings = _apply_limit(sorted(range(len(matrix)), key=matrix.labels.__getitem__), limit)
            return prometheus_json.encode_success(prometheus_json.encode_matrix(matrix, rows), warnings)

        return await self._run_job(params, job)

    def _compile_query(self, params: Parameters) -> promql.Query:
        if params.get_text("lookback_delta"):
            raise BadRequestError('invalid parameter "lookback_delta": it is always 5m here; leave it out')
        try:
            return promql.compile(params.get_text("query"), subquery_step_ms=self._context.subquery_step_ms)
        except promql.PromqlError as error:
            raise BadRequestError(f'invalid parameter "query": {error}') from None

    async def _serve_series(self, params: Parameters) -> bytes:
        if not params.get_texts("match[]"):
            raise BadRequestError("no match[] parameter provided")
        return await self._list_from_series(
            params, lambda label_sets: [dict(labels) for labels in sorted(set(label_sets))]
        )

    async def _serve_labels(self, params: Parameters) -> bytes:
        return await self._list_from_series(
            params, lambda label_sets: sorted({name for labels in label_sets for name, _ in labels})
        )

    async def _serve_label_values(self, params: Parameters) -> bytes:
        label_name = unescape_name(params.get_text("name"))
        if not is_valid_name(label_name):
            raise BadRequestError(f'invalid label name: "{label_name}"')

        def list_values(label_sets: Iterable[Labels]) -> list[str]:
            return sorted({value for labels in label_sets for name, value in labels if name == label_name})

        return await self._list_from_series(params, list_values)

    async def _list_from_series(
        self, params: Parameters, extract: Callable[[Iterable[Labels]], Sequence[object]]
    ) -> bytes:
        """Returns a list extracted from the labels of the matching series."""
        start_ms, end_ms = params.get_time("start", -FARTHEST_MS), params.get_time("end", FARTHEST_MS)
        limit = params.get_limit()

        def job(snapshot: Snapshot) -> bytes:
            selectors = _parse_selectors(params) or [()]
            label_sets = (
                labels for matchers in selectors for labels in snapshot.iter_series(matchers, start_ms, end_ms)
            )
            results, warnings = _apply_limit(extract(label_sets), limit)
            return prometheus_json.encode_data(results, warnings)

        return await self._run_job(params, job)

    async def _serve_metadata(self, params: Parameters) -> bytes:
        limit, per_metric = params.get_limit(), params.get_limit("limit_per_metric")

        def job(snapshot: Snapshot) -> bytes:
            metadata: dict[str, list[dict[str, str]]] = {}
            for metric in snapshot.iter_metrics():
                meanings = metadata.setdefault(metric.name, [])
                if params.get_text("metric") in ("", metric.name) and (not per_metric or len(meanings) < per_metric):
                    meanings.append({"type": metric.kind, "help": metric.help, "unit": ""})
            names = [name for name, meanings in sorted(metadata.items()) if meanings]
            return prometheus_json.encode_data({name: metadata[name] for name in (names[:limit] if limit else names)})

        return await self._run_job(params, job)

    async def _serve_exemplars(self, params: Parameters) -> bytes:
        return prometheus_json.encode_data([])

    async def _serve_rules(self, params: Parameters) -> bytes:
        def prepare() -> Callable[[], bytes]:
            reports, identity = self._context.rules().report(), self._context.identity
            return lambda: _encode_shared(rules_api.list_groups(reports, identity, params), params)

        return await self._rule_renderings.render(("rules", params.identity), prepare)

    async def _serve_alerts(self, params: Parameters) -> bytes:
        def prepare() -> Callable[[], bytes]:
            alerts, identity = self._context.rules().list_alerts(), self._context.identity
            return lambda: _encode_shared(rules_api.list_alerts(alerts, identity), params)

        return await self._rule_renderings.render(("alerts", params.accepts_gzip), prepare)

    async def _serve_formatted_query(self, params: Parameters) -> bytes:
        def job(snapshot: Snapshot) -> bytes:
            try:
                return prometheus_json.encode_data(promql.format_expression(params.get_text("query")))
            except promql.PromqlError as error:
                raise BadRequestError(f'invalid parameter "query": {error}') from None

        return await self._run_job(params, job)

    async def _serve_series_statistics(self, params: Parameters) -> bytes:
        limit = params.get_limit()
        return await self._run_job(
            params, lambda snapshot: prometheus_json.encode_data(summarize_series(snapshot, limit))
        )


async def _answer_preflight(request: web.Request) -> web.Response:
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=_build_cors_headers(request))


def _build_cors_headers(request: web.Request) -> dict[str, str]:
    """
    Lets pages of other origins read, as Prometheus does by default.

    Only the endpoints of this file do, which change nothing. No browser adds a credential, because the wildcard forbids
    that: a page reads what everybody may, or names a token that its reader gave it.
    """
    return {**_CORS_HEADERS, "Vary": "Accept-Encoding, Origin"} if "Origin" in request.headers else {}


def _evaluate_instant(query: promql.Query, snapshot: Snapshot, at_ms: int, limit: int) -> bytes:
    budget = _make_budget()
    if query.kind == "string":
        return prometheus_json.encode_success(prometheus_json.encode_string(query.get_string(), at_ms))
    if query.kind == "matrix":
        series = sorted(query.read_samples(snapshot, at_ms, budget), key=itemgetter(0))
        ranges, warnings = _apply_limit(series, limit)
        return prometheus_json.encode_success(prometheus_json.encode_samples(ranges), warnings)
    result = query.evaluate_at(snapshot, at_ms, budget)
    if query.kind == "scalar":
        return prometheus_json.encode_success(prometheus_json.encode_scalar(float(result.values[0]), at_ms))
    samples, warnings = _apply_limit(list(result), limit)
    return prometheus_json.encode_success(prometheus_json.encode_vector(samples, at_ms), warnings)


def _encode_shared(data: object, params: Parameters) -> bytes:
    return _compress(prometheus_json.encode_data(data), params.accepts_gzip)


def _make_budget() -> QueryBudget:
    return QueryBudget(MAX_CELLS, label_bytes=MAX_LABEL_BYTES)


def _parse_selectors(params: Parameters) -> list[Matchers]:
    try:
        return [promql.parse_selector(text) for text in params.get_texts("match[]")]
    except promql.PromqlError as error:
        raise BadRequestError(f'invalid parameter "match[]": {error}') from None


def _apply_limit(results: Sequence[_T], limit: int) -> tuple[Sequence[_T], tuple[str, ...]]:
    return (results[:limit], (TRUNCATED,)) if 0 < limit < len(results) else (results, ())


def _compress(body: bytes, accepts_gzip: bool) -> bytes:
    # Level 1 saves most of the bytes in a fraction of the time.
    return gzip.compress(body, compresslevel=1) if accepts_gzip and len(body) > _GZIP_THRESHOLD else body
