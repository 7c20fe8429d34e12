"""
Evaluates rules over the recent samples: expressions, alerts, templates, and unit tests of rules. It has no clock but
the `now` of its caller, opens no socket, and imports no room but `collectors`, for the types of samples.

    history/    the columnar memory of recent samples
    promql/     Prometheus' query language over History
    templates/  Go templates in labels and annotations
    unittests/  test files of rules, as promtool runs them
    builtin/    the rules that ship with the agent
"""
