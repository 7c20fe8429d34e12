"""/metrics shows exactly the content of History."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agent.web.exposition import Exposition, LiveSeries, compact_series
from collectors import counter, gauge

HEAT = gauge("steadytok_heat_celsius", "Heat.")
EVENTS = counter("steadytok_events_total", 'Events, with a \\ and a\nnew "line".')
SECONDS = counter("throttle_seconds_total", "How long.")
HERTZ = gauge("frequency_hertz", "How fast.")
LABELS = st.dictionaries(st.sampled_from(["dimm", "node"]), st.text(min_size=1, max_size=8)).map(
    lambda pairs: tuple(sorted(pairs.items()))
)


def parse_samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def are_same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


@given(
    st.lists(st.dictionaries(st.tuples(st.sampled_from([HEAT, EVENTS]), LABELS), st.floats()), min_size=1, max_size=3)
)
def test_parses_to_the_same_floats(passes: list[dict[tuple[object, object], float]]) -> None:
    """Each rendering, with cached lines or not, parses back to exactly the input values."""
    exposition = Exposition()
    for series in passes:
        live: list[LiveSeries] = [(metric, labels, value, 0) for (metric, labels), value in series.items()]  # type: ignore[misc]
        parsed = parse_samples(exposition.render(live))

        assert len(parsed) == len(live)
        assert all(are_same(parsed[metric.name, labels], value) for metric, labels, value, _ in live)


def test_families_stand_together() -> None:
    """Each family has one HELP and one TYPE, before its first sample."""
    text = Exposition().render([(HEAT, (("n", "1"),), 1.0, 0), (EVENTS, (), 2.0, 0), (HEAT, (("n", "2"),), 3.0, 0)])

    assert text.count("# TYPE") == 2
    assert text.index("# TYPE steadytok_heat_celsius gauge") < text.index('steadytok_heat_celsius{n="1"} 1')
    assert text.endswith('steadytok_heat_celsius{n="2"} 3\n')


def test_what_is_not_a_signal_is_not_shown() -> None:
    """ALERTS and recording rules belong to the query API: a scraper would store them twice."""
    text = Exposition().render([(gauge("ALERTS", "x"), (), 1.0, 0), (gauge("steadytok:rate", "x"), (), 1.0, 0)])

    assert text == ""


def test_cores_add_up_and_frequencies_are_means() -> None:
    """Counters of a package's cores are summed and a node's frequencies averaged; other series stay."""
    series = [
        (SECONDS, (("core", "0"), ("package", "0")), 1.0, 5),
        (HERTZ, (("node", "0"),), 7.0, 5),
        (SECONDS, (("core", "1"), ("package", "0")), 2.0, 6),
        (SECONDS, (("core", "0"), ("package", "1")), 4.0, 5),
        (HERTZ, (("node", "1"), ("policy", "0")), 2e9, 5),
        (HERTZ, (("node", "1"), ("policy", "1")), 4e9, 4),
    ]

    assert list(compact_series(series)) == [
        (HERTZ, (("node", "0"),), 7.0, 5),
        (SECONDS, (("package", "0"),), 3.0, 6),
        (SECONDS, (("package", "1"),), 4.0, 5),
        (HERTZ, (("node", "1"),), 3e9, 5),
    ]
