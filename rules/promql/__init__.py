"""
Prometheus' query language over History: text is parsed once into a plan, which is evaluated series x steps.

https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

from rules.promql.plan import PromqlError
from rules.promql.query import Matrix, Query, Vector, compile, parse_selector  # noqa: A004 - read as promql.compile, as re.compile is
from rules.promql.values import QueryBudget

__all__ = ["Matrix", "PromqlError", "Query", "QueryBudget", "Vector", "compile", "parse_selector"]
