"""
Prometheus' query language over History: parses text once into a plan, and evaluates the plan series x steps. It reads
only the History that its caller passes, and knows no rules and no alerts.

https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

from rules.promql.parse import format_expression
from rules.promql.plan import LOOKBACK_MS, PromqlError
from rules.promql.query import Matrix, Query, Vector, compile, parse_selector  # noqa: A004 - read as promql.compile, as re.compile is
from rules.promql.values import QueryBudget

__all__ = [
    "LOOKBACK_MS",
    "Matrix",
    "PromqlError",
    "Query",
    "QueryBudget",
    "Vector",
    "compile",
    "format_expression",
    "parse_selector",
]
