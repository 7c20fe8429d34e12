"""The merged metrics of several workers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from engine.serving.merged_metrics import MergedMetrics, WorkerMetrics

TEXT = """\
# HELP r_tokens_total Tokens.
# TYPE r_tokens_total counter
r_tokens_total {tokens}
# HELP r_wait_seconds Waits.
# TYPE r_wait_seconds histogram
r_wait_seconds_bucket{{le="1"}} {tokens}
r_wait_seconds_bucket{{le="+Inf"}} {tokens}
r_wait_seconds_sum {tokens}
r_wait_seconds_count {tokens}
# HELP r_duty Duty.
# TYPE r_duty gauge
r_duty 0.5
# HELP r_pages_ratio Pages.
# TYPE r_pages_ratio gauge
r_pages_ratio{{node="1"}} 1.0
"""


def parse_values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Returns every sample by name and labels; fails if the text does not parse."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def build_metrics(start: int, tokens: float) -> WorkerMetrics:
    """Returns the metrics of a process that has generated `tokens` tokens."""
    return WorkerMetrics(start, TEXT.format(tokens=tokens))


def test_each_worker_keeps_its_series() -> None:
    """The label `worker` is added, other labels remain, and each family appears once."""
    merged = MergedMetrics().merge({"0": build_metrics(1, 5), "1": build_metrics(1, 7)})
    values = parse_values(merged)

    assert merged.count("# TYPE r_tokens_total counter") == 1
    assert values["r_tokens_total", (("worker", "0"),)] == 5
    assert values["r_tokens_total", (("worker", "1"),)] == 7
    assert values["r_pages_ratio", (("node", "1"), ("worker", "0"))] == 1
    assert values["r_wait_seconds_bucket", (("le", "+Inf"), ("worker", "1"))] == 7


def test_one_that_is_gone_keeps_its_counters_and_loses_its_gauges() -> None:
    """The counters of a missing worker remain, its gauges do not."""
    merged_metrics = MergedMetrics()
    merged_metrics.merge({"0": build_metrics(1, 5), "1": build_metrics(1, 7)})
    values = parse_values(merged_metrics.merge({"0": build_metrics(1, 6)}))

    assert values["r_tokens_total", (("worker", "1"),)] == 7
    assert values["r_wait_seconds_count", (("worker", "1"),)] == 7
    assert ("r_duty", (("worker", "1"),)) not in values
    assert values["r_duty", (("worker", "0"),)] == 0.5


def test_nobody_there_is_nothing_to_tell() -> None:
    """Before the first scrape there is no series."""
    assert MergedMetrics().merge({}) == ""


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 1000)), min_size=1, max_size=30))
def test_counters_never_fall(steps: list[tuple[bool, bool, int]]) -> None:
    """Whichever process dies, is silent or counts: at each scrape the sum is that of all processes so far."""
    merged_metrics, start, tokens, before, last = MergedMetrics(), 1, 0, 0, 0.0
    has_answered = False
    for dies, answers, tokens_added in steps:
        if dies and has_answered:
            start, before, tokens = start + 1, before + tokens, 0
            has_answered = False
        if answers:
            tokens += tokens_added
            has_answered = True
        values = parse_values(merged_metrics.merge({"0": build_metrics(start, tokens)} if answers else {}))
        value = values.get(("r_tokens_total", (("worker", "0"),)), 0.0)

        assert value >= last
        assert not answers or value == before + tokens
        last = value
