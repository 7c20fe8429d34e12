"""
Evaluates rules over the recent samples: a pure core whose only clock is the `now` that its caller passes in.

    history/    the columnar memory of recent samples
    promql/     Prometheus' query language over History
    templates/  Go templates in labels and annotations
    unittests/  test files of rules, as promtool runs them
    builtin/    the rules that ship with the agent
"""
