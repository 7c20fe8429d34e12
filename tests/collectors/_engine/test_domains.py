"""Values that no engine can have: each is refused with a reason, and is never a reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import Host, Reading, engine
from collectors._engine.dialects import DIALECTS, MetricSource
from collectors._engine.domains import DOMAINS, Signal
from collectors._engine.exposition import parse_points
from collectors._engine.signals import read_signal

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]

BAD_VALUES = {
    "NaN": math.nan,
    "infinite": math.inf,
    "infinitely negative": -math.inf,
    "negative": -0.3875,
    "beyond whole numbers of a float": 2.0**54,
    "nanoseconds since 1970": 1.7e18,
}
PERCENTAGE = 38.75
TIMESTAMP = 1.7e9  # no counter is refused for it: 1.7e9 tokens are a week's work
SOURCES = [
    (kind, signal, source)
    for kind, dialect in DIALECTS.items()
    for signal, sources in dialect.sources.items()
    for source in sources
]
CASES = [
    pytest.param(kind, signal, source, value, id=f"{source.name}-{signal}-{word}")
    for kind, signal, source in SOURCES
    for word, value in (BAD_VALUES | {"percentage": PERCENTAGE, "timestamp": TIMESTAMP}).items()
    if word in BAD_VALUES or value > DOMAINS[signal].largest
]


def _collect(machine: Machine, kind: str, text: str) -> tuple[Host, list[Reading]]:
    host = machine({"http/127.0.0.1:9000/metrics": text})
    target = engine.EngineEndpoint(name="e", url="http://127.0.0.1:9000", kind=kind)  # type: ignore[arg-type]  # plain words
    return host, list(engine.collect(host, engine.Config(engines=(target,))))


def _format_sample(source: MetricSource, value: float, **labels: str) -> str:
    pairs = {label: values[0] for label, values in source.label_values.items()} | labels
    listed = ",".join(f'{label}="{text}"' for label, text in pairs.items())
    return f"{source.name}{{{listed}}} {value!r}\n"


def _find_metric(signal: Signal) -> str:
    return next(metric.name for metric in engine.METRICS if metric.name.startswith(f"steadytok_engine_{signal}"))


@pytest.mark.parametrize(("kind", "signal", "source", "value"), CASES)
def test_a_value_outside_its_domain_is_no_reading(
    machine: Machine, series: Series, kind: str, signal: Signal, source: MetricSource, value: float
) -> None:
    """Every metric of every engine, with each bad value beside a good one: the signal is missing, with one reason."""
    text = _format_sample(source, 0.25, replica="good") + _format_sample(source, value, replica="bad")
    host, readings = _collect(machine, kind, text)
    notes = [note.reason for note in host.take_notes()]

    assert not [name for name in series(readings) if name.startswith(_find_metric(signal))]
    assert any(reason.startswith(f"{source.name} is ") for reason in notes)


@pytest.mark.parametrize(("kind", "signal", "source"), SOURCES, ids=lambda value: getattr(value, "name", str(value)))
def test_the_bounds_themselves_are_readings(
    machine: Machine, series: Series, kind: str, signal: Signal, source: MetricSource
) -> None:
    """Nothing and everything are values: 0 requests, a KV cache that is full."""
    for value in (DOMAINS[signal].smallest, DOMAINS[signal].largest):
        _, readings = _collect(machine, kind, _format_sample(source, value))
        values = [reading for name, reading in series(readings).items() if name.startswith(f"{_find_metric(signal)}{{")]

        assert values == [value]


def test_every_signal_has_a_domain_and_a_metric() -> None:
    """A new signal without a domain, or a domain without a signal, is noticed."""
    signals = {signal for _, signal, _ in SOURCES}

    assert set(DOMAINS) == signals
    assert len({_find_metric(signal) for signal in signals}) == len(signals)


@pytest.mark.parametrize(
    ("kind", "signal", "source"),
    [case for case in SOURCES if case[2].total_label is not None],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_total_is_not_added_to_its_parts(
    machine: Machine, series: Series, kind: str, signal: Signal, source: MetricSource
) -> None:
    """Of each data-parallel rank the total counts once; a rank without a total has the sum of its parts."""
    label = str(source.total_label)
    text = "".join(
        _format_sample(source, value, dp_rank=rank, **{label: part})
        for rank, part, value in (("0", "", 12), ("0", "1", 9), ("0", "5", 3), ("1", "", 20), ("1", "1", 20))
    )
    parts = _format_sample(source, 7, dp_rank="2", **{label: "1"}) + _format_sample(
        source, 8, dp_rank="2", **{label: "5"}
    )
    _, readings = _collect(machine, kind, text + parts)
    values = [value for name, value in series(readings).items() if name.startswith(f"{_find_metric(signal)}{{")]

    assert values == [12 + 20 + 7 + 8]


@pytest.mark.parametrize("kind", DIALECTS)
def test_ranks_repeat_each_other_and_data_adds_up(machine: Machine, series: Series, kind: str) -> None:
    """A rank that no engine has yet repeats the others too; only ranks of data parallelism are replicas."""
    source = DIALECTS[kind].sources["requests_running"][0]
    text = "".join(
        _format_sample(source, 5 + number, dp_rank=str(number), **{rank: str(repeat)})
        for number in range(2)
        for rank in ("tp_rank", "attn_cp_rank", "dcp_rank")
        for repeat in range(4)
    )
    _, readings = _collect(machine, kind, text)
    (value,) = [value for name, value in series(readings).items() if "requests_running" in name]

    assert value == 5 + 6


@given(
    st.sampled_from(SOURCES),
    st.lists(st.tuples(st.floats(), st.dictionaries(st.sampled_from(("engine", "tp_rank", "priority")), st.text()))),
)
def test_no_exposition_gives_a_value_outside_the_domain(
    case: tuple[str, Signal, MetricSource], parts: list[tuple[float, dict[str, str]]]
) -> None:
    """Whatever an engine prints becomes a value within the domain or a fault; without a series there is neither."""
    kind, signal, source = case
    lines = [_format_sample(source, value, **_escape(labels)) for value, labels in parts]
    names = {name: name for name in DIALECTS[kind].names}
    reading = read_signal(DIALECTS[kind], signal, parse_points("".join(lines), names))

    assert reading.value is None or DOMAINS[signal].smallest <= reading.value <= DOMAINS[signal].largest
    assert (reading.value is None) == (reading.fault is not None or not parts)


def _escape(labels: dict[str, str]) -> dict[str, str]:
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return {label: text.translate(escapes) for label, text in labels.items()}
