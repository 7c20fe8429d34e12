"""
The middle floor: decides from History alone, with no clock but the `now` it is given.

    history     the columnar memory of recent samples
    promql/     Prometheus' query language over History
"""

from rules.history.history import History

__all__ = ["History"]
