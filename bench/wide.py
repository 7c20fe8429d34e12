"""
The same moving series for two rule engines, and the same rules about them.

Each metric is there with 400 and with 4,000 series; a value is a function of its series and the second, so that both
engines see the same whenever they look.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import yaml

from collectors import Labels, Metric, Sample, counter, gauge

SIZES = (400, 4_000)
NODES, BOUNDS = 8, ("0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5", "+Inf")
IDENTITY = {"job": "bench", "instance": "wide"}
UNREACHABLE = "1e15"
RULE_COUNT = 1_000  # rules of the file that is to show the cost of a thousand


class RuleShape(NamedTuple):
    """One kind of rule: its expression, with N for the number of series, and whether it looks at many of them."""

    name: str
    expression: str
    is_wide: bool = True

    def format_expr(self, series: int) -> str:
        """The expression over the metrics of that many series; true of none of them."""
        return self.expression.replace("N", f"bench_{series}")


SHAPES = (
    RuleShape("threshold", f"N_bytes > {UNREACHABLE}"),
    RuleShape("rate[5m]", f"rate(N_total[5m]) > {UNREACHABLE}"),
    RuleShape("avg_over_time[5m]", f"avg_over_time(N_bytes[5m]) > {UNREACHABLE}"),
    RuleShape("sum by", f"sum by (node) (N_bytes) > {UNREACHABLE}"),
    RuleShape("histogram_quantile", f"histogram_quantile(0.99, N_seconds_bucket) > {UNREACHABLE}"),
    RuleShape("join", f"N_bytes / on (i, node) N_limit_bytes > {UNREACHABLE}"),
    RuleShape("threshold, one series", f'N_bytes{{i="7"}} > {UNREACHABLE}', is_wide=False),
    RuleShape("rate[5m], one series", f'rate(N_total{{i="7"}}[5m]) > {UNREACHABLE}', is_wide=False),
    RuleShape("avg_over_time[5m], one series", f'avg_over_time(N_bytes{{i="7"}}[5m]) > {UNREACHABLE}', is_wide=False),
)


def build_rule_groups(series: int) -> list[dict[str, Any]]:
    """One group per shape, so that neither engine's figure of one holds another's."""
    return [
        {"name": f"{shape.name}, {series} series", "rules": [_build_rule(shape.name, shape.format_expr(series))]}
        for shape in SHAPES
    ]


def build_thousand_rules() -> list[dict[str, Any]]:
    """A thousand rules about a thousand different series, in ten groups."""
    expressions = (
        'bench_4000_bytes{i="%d"}',
        'rate(bench_4000_total{i="%d"}[5m])',
        'avg_over_time(bench_4000_bytes{i="%d"}[5m])',
    )
    rules = [
        _build_rule(f"Many{number}", f"{expressions[number % len(expressions)] % number} > {UNREACHABLE}")
        for number in range(RULE_COUNT)
    ]
    return [{"name": f"many {start}", "rules": rules[start : start + 100]} for start in range(0, RULE_COUNT, 100)]


def render_rule_file(groups: list[dict[str, Any]]) -> str:
    """The groups as a rule file."""
    return yaml.safe_dump({"groups": groups})


def _build_rule(name: str, expr: str) -> dict[str, Any]:
    return {"alert": "".join(filter(str.isalnum, name)), "expr": expr}


class _SeriesSpec(NamedTuple):
    metric: Metric
    labels: Labels
    start: float
    step: float  # what a counter gains in a second, or how far a gauge swings


def generate_specs() -> Iterator[_SeriesSpec]:
    """Every series with what it does over time."""
    for size in SIZES:
        value = gauge(f"bench_{size}_bytes", "Something that goes to and fro.")
        limit = gauge(f"bench_{size}_limit_bytes", "Something that stands still.")
        total = counter(f"bench_{size}_total", "Something that counts.")
        bucket = counter(f"bench_{size}_seconds_bucket", "Something that was measured.")
        for number in range(size):
            labels = (("i", str(number)), ("node", str(number % NODES)))
            yield _SeriesSpec(value, labels, 1e9 + 4096.0 * number, 4096.0 * (1 + number % 7))
            yield _SeriesSpec(limit, labels, 2e9, 0.0)
            yield _SeriesSpec(total, labels, 1000.0 * number, 1.0 + number % 97)
            yield _SeriesSpec(bucket, _bucket_labels(number), 10.0 * (number % len(BOUNDS)), 1.0 + number % len(BOUNDS))


def _bucket_labels(number: int) -> Labels:
    histogram, bound = divmod(number, len(BOUNDS))
    return (("i", str(histogram)), ("le", BOUNDS[bound]))


class MovingSeries:
    """All the series at any second."""

    def __init__(self) -> None:
        self._specs = list(generate_specs())
        self._prefixes = [f"{spec.metric.name}{{{_format_labels(dict(spec.labels))}}} " for spec in self._specs]

    def values_at(self, second: int) -> list[float]:
        """One value per series."""
        return [
            spec.start + spec.step * (second if spec.metric.kind == "counter" else second % 5) for spec in self._specs
        ]

    def samples_at(self, second: int) -> list[Sample]:
        """As a collector gives them."""
        return [
            Sample(spec.metric, spec.labels, value)
            for spec, value in zip(self._specs, self.values_at(second), strict=True)
        ]

    def render_page(self, second: int) -> bytes:
        """As a page that Prometheus scrapes."""
        pairs = zip(self._prefixes, self.values_at(second), strict=True)
        return "".join(f"{prefix}{value!r}\n" for prefix, value in pairs).encode()


def _format_labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


@contextmanager
def serve_page(series: MovingSeries) -> Iterator[str]:
    """The series on a page of this host, moving each second; gives its address."""

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = series.render_page(int(time.monotonic()))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
