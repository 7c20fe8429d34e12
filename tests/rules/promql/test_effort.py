"""The effort of a query counts the labels that it makes, and no label value grows without end."""

from __future__ import annotations

import pytest

from collectors import Labels, Sample, counter, gauge
from rules import promql
from rules.history.history import History
from rules.promql import PromqlError, QueryBudget
from rules.promql.aggregate import AGGREGATIONS
from rules.promql.binary import OPERATORS, SET_OPERATORS
from rules.promql.functions import FUNCTIONS
from rules.promql.plan import SCALAR_CALLS
from rules.promql.values import MAX_VALUE_LENGTH, format_labels

NOW = 1_700_000_000_000
LONG = "x" * MAX_VALUE_LENGTH

ARGUMENTS = {
    "clamp": "heat, 1, 2",
    "clamp_max": "heat, 1",
    "clamp_min": "heat, 1",
    "histogram_fraction": "0, 1, time_bucket",
    "histogram_quantile": "0.5, time_bucket",
    "label_join": "heat, 'new', 'and', 'dimm', 'dimm'",
    "label_replace": "heat, 'new', '$1$1', 'dimm', '(.*)'",
    "predict_linear": "heat[5m], 1",
    "quantile_over_time": "0.5, heat[5m]",
    "vector": "1",
}
WINDOWED = {"changes", "delta", "deriv", "idelta", "increase", "irate", "rate", "resets"}
PARAMETERS = {"count_values": "'value', ", "quantile": "0.5, ", "topk": "2, ", "bottomk": "2, "}


def _list_expressions() -> list[str]:
    """Returns an expression for each function, aggregation and operator of the language."""
    calls = []
    for name in sorted(set(FUNCTIONS) - SCALAR_CALLS):
        default = "heat[5m]" if name in WINDOWED or name.endswith("_over_time") else "heat"
        calls.append(f"{name}({ARGUMENTS.get(name, default)})")
    aggregations = [f"{name} by (node) ({PARAMETERS.get(name, '')}heat)" for name in sorted(AGGREGATIONS)]
    operations = [f"heat {op} heat" for op in sorted(OPERATORS)]
    joins = [f"heat {op} on (node) group_left (limit) edge" for op in sorted(OPERATORS - SET_OPERATORS)]
    return [*calls, *aggregations, *operations, *joins, "heat + 1", "-heat", "heat == bool 1", "1 - heat"]


@pytest.fixture
def history() -> History:
    """Ten DIMMs on two nodes with long names, a limit for each node, and a histogram."""
    history = History(3_600_000)
    for at in (NOW - 60_000, NOW - 30_000, NOW):
        samples = [
            Sample(gauge("heat", "Heat."), (("dimm", f"D{n}-{'x' * 500}"), ("node", str(n % 2))), 40.0 + n + at % 7)
            for n in range(10)
        ]
        samples += [Sample(gauge("edge", "Edge."), (("limit", "y" * 500), ("node", str(n))), 45.0) for n in range(2)]
        buckets = (("0.5", 3.0), ("1", 5.0), ("+Inf", 9.0))
        samples += [Sample(counter("time_bucket", "Time."), (("le", bound), ("node", "0")), n) for bound, n in buckets]
        history.record("host", at, samples)
    return history


def _count_new_bytes(result: tuple[Labels, ...], history: History) -> int:
    """Returns the least size of the label sets and texts in a result that are not those of History."""
    stored = [each for name in history.list_names() for each in promql.compile(name).evaluate_at(history, NOW).labels]
    known = {id(labels) for labels in stored} | {id(text) for labels in stored for pair in labels for text in pair}
    new_sets = [labels for labels in result if id(labels) not in known and labels]
    texts = {id(value): len(value) for labels in new_sets for _, value in labels if id(value) not in known}
    return 8 * sum(map(len, new_sets)) + sum(texts.values())


@pytest.mark.parametrize("text", _list_expressions())
def test_every_operation_accounts_for_the_labels_that_it_makes(history: History, text: str) -> None:
    """
    One that did not could be nested until the labels fill the memory.

    500 bytes from a client without a password took 2.4 GB, and stopped the event loop for seconds.
    """
    budget = QueryBudget()
    result = promql.compile(text).evaluate_range(history, NOW - 30_000, NOW, 30_000, budget)

    assert budget._label_bytes >= _count_new_bytes(result.labels, history)


@pytest.mark.parametrize(
    ("text", "function", "length"),
    [
        (f"label_replace(heat, 'a', '{LONG}y', '', '')", "label_replace()", 16_385),
        (f"label_replace(heat, 'a', '${{0}}${{0}}{LONG[100:]}', 'dimm', '.*')", "label_replace()", 17_290),
        (f"label_join(heat, 'a', '{LONG}', 'node', 'node', 'node')", "label_join()", 32_771),
        ("label_replace(" * 6 + "heat" + ", 'dimm', '$1$1', 'dimm', '(.*)')" * 6, "label_replace()", 32_192),
    ],
)
def test_a_label_value_that_is_too_long_is_refused_before_it_is_made(
    history: History, text: str, function: str, length: int
) -> None:
    """The error names the function, the length and the limit."""
    with pytest.raises(PromqlError) as error:
        promql.compile(text).evaluate_at(history, NOW)

    assert str(error.value) == (
        f"{function} would make a label value of {length:,} characters, and 16,384 are allowed; use a shorter one"
    )


def test_the_longest_value_is_made(history: History) -> None:
    """The limit itself is allowed."""
    vector = promql.compile(f"label_replace(vector(1), 'a', '{LONG}', '', '')").evaluate_at(history, NOW)

    assert dict(vector.labels[0])["a"] == LONG


@pytest.mark.parametrize(
    "text",
    [
        "label_replace(" * 30 + "heat" + "".join(f", 'l{n}', '$1', 'dimm', '(.*)')" for n in range(30)),
        " or ".join(f"label_replace(heat, 'dimm', 'y{n}$1', 'dimm', '(.*)')" for n in range(30)),
        " + ".join(["heat"] * 150),
        "count_values('v', " + " or ".join(f"(heat * {n}.1)" for n in range(100)) + ")",
    ],
    ids=["long values", "many series", "many joins", "many values"],
)
def test_the_labels_of_a_whole_query_are_bounded(history: History, text: str) -> None:
    """No single step is large; together they would be."""
    query = promql.compile(text)
    with pytest.raises(PromqlError, match="would make more than 0 MiB of labels in all its parts; use fewer series"):
        query.evaluate_at(history, NOW, QueryBudget(label_bytes=50_000))


def test_labels_without_a_name_are_not_copied_to_drop_it(history: History) -> None:
    """A chain of operations makes label sets once."""
    once, chain = QueryBudget(), QueryBudget()
    promql.compile("abs(heat)").evaluate_at(history, NOW, once)
    promql.compile("ceil(-abs(abs(abs(heat)) * 2))").evaluate_at(history, NOW, chain)

    assert chain._label_bytes == once._label_bytes > 0


def test_a_memo_is_accounted_for_once(history: History) -> None:
    """A rule that is evaluated each second makes its labels only when its series change."""
    query, budget = promql.compile("label_replace(abs(heat), 'a', '$1', 'dimm', '(.*)')"), QueryBudget()
    query.evaluate_at(history, NOW, budget)
    spent = budget._label_bytes
    query.evaluate_at(history, NOW, budget)

    assert budget._label_bytes == spent > 0


def test_labels_in_an_error_are_cut() -> None:
    """An error about label sets must not be megabytes long itself."""
    text = format_labels([("__name__", "heat"), *((f"l{n}", LONG) for n in range(100))])

    assert len(text) < 1_100
    assert text.startswith('heat{l0="xxx')
    assert format_labels([("__name__", "heat"), ("a", "b")]) == 'heat{a="b"}'


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [
        ("$1-${2}", "ab-cd"),
        ("$1x", ""),
        ("${1}x$$$0", "abx$ab_cd"),
        ("${name}$3${unknown}.", "cd."),
        ("$01$00", "abab_cd"),
        ("$" + "9" * 5_000, ""),
        ("$é", "$é"),
    ],
)
def test_a_replacement_is_expanded_as_go_does(history: History, replacement: str, expected: str) -> None:
    """The longest name counts, a missing group is empty, and `$$` is a dollar."""
    text = (
        f"label_replace(label_replace(vector(1), 'a', 'ab_cd', '', ''), 'b', '{replacement}', 'a', '(.*)_(?P<name>.*)')"
    )
    vector = promql.compile(text).evaluate_at(history, NOW)

    assert dict(vector.labels[0]).get("b", "") == expected
