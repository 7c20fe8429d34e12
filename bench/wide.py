"""
The same moving series and the same rules for two rule engines.

Each metric exists with 400 and with 4,000 series. A value is a function of its series and the second, so both engines
read the same values at any time.
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
RULE_COUNT = 1_000  # rules in the file that measures the cost of a thousand


class RuleShape(NamedTuple):
    """One kind of rule: its expression, with N for the number of series; `is_wide` if it reads many of them."""

    name: str
    expression: str
    is_wide: bool = True

    def format_expr(self, series: int) -> str:
        """Returns the expression for the metrics with `series` series; it is true for none of them."""
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
    """Returns one group per shape, so that both engines report the time of each shape alone."""
    return [
        {"name": f"{shape.name}, {series} series", "rules": [_build_rule(shape.name, shape.format_expr(series))]}
        for shape in SHAPES
    ]


def build_thousand_rules() -> list[dict[str, Any]]:
    """Returns a thousand rules about a thousand different series, in ten groups."""
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
    """Renders the groups as a rule file."""
    return yaml.safe_dump({"groups": groups})


def _build_rule(name: str, expr: str) -> dict[str, Any]:
    return {"alert": "".join(filter(str.isalnum, name)), "expr": expr}


class _SeriesSpec(NamedTuple):
    metric: Metric
    labels: Labels
    start: float
    step: float  # gain of a counter per second, or amplitude of a gauge


def generate_specs() -> Iterator[_SeriesSpec]:
    """Yields every series with its start and step."""
    for size in SIZES:
        value = gauge(f"bench_{size}_bytes", "A gauge that alternates.")
        limit = gauge(f"bench_{size}_limit_bytes", "A constant gauge.")
        total = counter(f"bench_{size}_total", "A counter.")
        bucket = counter(f"bench_{size}_seconds_bucket", "A histogram.")
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
    """All series at any second."""

    def __init__(self) -> None:
        self._specs = list(generate_specs())
        self._prefixes = [f"{spec.metric.name}{{{_format_labels(dict(spec.labels))}}} " for spec in self._specs]

    def make_values(self, second: int) -> list[float]:
        """Returns one value per series."""
        return [
            spec.start + spec.step * (second if spec.metric.kind == "counter" else second % 5) for spec in self._specs
        ]

    def make_samples(self, second: int) -> list[Sample]:
        """Returns the samples of a collector."""
        return [
            Sample(spec.metric, spec.labels, value)
            for spec, value in zip(self._specs, self.make_values(second), strict=True)
        ]

    def render_page(self, second: int) -> bytes:
        """Renders a page for Prometheus to scrape."""
        pairs = zip(self._prefixes, self.make_values(second), strict=True)
        return "".join(f"{prefix}{value!r}\n" for prefix, value in pairs).encode()


def _format_labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


@contextmanager
def serve_page(series: MovingSeries) -> Iterator[str]:
    """Serves the series on loopback, moving each second; yields the address."""

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
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
