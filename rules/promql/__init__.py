"""
Prometheus' query language over History: parsed once into a plan, evaluated series x steps.

https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

from rules.promql.plan import PromqlError
from rules.promql.query import Matrix, Query, Vector, compile, selector  # noqa: A004 - read as promql.compile, as re.compile is
from rules.promql.values import Effort

__all__ = ["Effort", "Matrix", "PromqlError", "Query", "Vector", "compile", "selector"]
