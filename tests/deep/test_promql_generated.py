"""
Generated expressions over random series get from us what a real Prometheus gives.

Our semantics are Prometheus 3's, Debian's program is 2.42. Where the two differ nothing is generated:

- ranges and the lookback are closed to the left in 2: no sample or step of a subquery lies on the edge of a window;
- a dot in a regular expression does not match a line feed in 2: no label holds one;
- `first_over_time` and `histogram_fraction` are not in 2.42;
- `sum` is not compensated in 2.42, and `avg` adds up in another order: neither meets values that cancel each other;
- `stddev` and `stdvar` of a lone NaN or Inf are 0 in 2.42: they meet finite series only;
- where the first sample is far from the start of its window, `rate` and `increase` of a counter near zero stretch
  differently: counters with gaps stay far from zero;
- a range query of `predict_linear(x[5m] @ 0, 600)` has its first step only in 2.42;
- a subquery with `@` within one with `@` gives values of other times in 2.42;
- promql-parser drops a unary plus, which `timestamp(+x)` and `absent(+x)` would show;
- 3 evens out differences of 1e-12 between histogram buckets: ranks are such that no quantile depends on them;
- of equal values, `topk` and `bottomk` choose by the order of storage: they are asked of distinct ones.

The expressions are the same in every run; `STEADYTOK_SEED=7` draws others, over other series.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Labels
from rules import promql
from rules.history.history import History
from rules.promql.aggregate import AGGREGATIONS
from rules.promql.functions import FUNCTIONS
from tests.deep import promql_grammar, promql_worlds
from tests.deep.promql_peer import Peer, prometheus

pytestmark = [pytest.mark.deep, pytest.mark.timeout(900)]

SEED = int(os.environ.get("STEADYTOK_SEED", "0"))
EXPRESSIONS = 4_500  # drawn per world; some come twice
INSTANTS = (1_700_000_333, 1_700_000_473, 1_700_000_733, 1_700_000_993, 1_700_001_293, 1_700_001_393)
STARTS = (1_700_000_353, 1_700_000_853)
STEPS, STEP = 26, 20

NOT_COMPARED = {"first_over_time", "histogram_fraction"}

Values = dict[tuple[Labels, int], float]


class World(NamedTuple):
    """One world on both sides, and the expressions that were compared in it."""

    kind: str
    peer: Peer
    histories: dict[str, History]
    compared: set[str]


@pytest.fixture(scope="module", params=promql_worlds.KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The samples, in a Prometheus and in several arrangements of History."""
    rows = promql_worlds.build_rows(request.param, SEED)
    with prometheus(tmp_path_factory.mktemp("prometheus"), promql_worlds.build_streams(rows)) as peer:
        yield World(request.param, peer, promql_worlds.build_histories(rows), set())


def test_generated_expressions_give_what_prometheus_gives(world: World) -> None:
    """Series, labels, values and refusals agree, however History holds the samples, for at least 2,000 expressions."""

    @hypothesis.seed(SEED)
    @settings(
        max_examples=EXPRESSIONS,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(promql_grammar.expressions(world.kind != "dense"), st.sampled_from(INSTANTS), st.sampled_from(STARTS))
    def compare(text: str, at: int, start: int) -> None:
        world.compared.add(text)
        _compare(world, text, lambda query, history: _at(query, history, at), _instant(world.peer, text, at))
        _compare(world, text, lambda query, history: _over(query, history, start), _range(world.peer, text, start))

    compare()

    assert len(world.compared) > 2_000


def test_every_function_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function and aggregation that both programs have is somewhere in the grammar's choices."""
    drawn: list[str] = []
    choose = promql_grammar.choose

    def choose_and_record(draw: promql_grammar.Draw, choices: tuple[str, ...]) -> str:
        drawn.extend(choices)
        return choose(draw, choices)

    monkeypatch.setattr(promql_grammar, "choose", choose_and_record)

    @settings(max_examples=500, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(promql_grammar.expressions(ragged=False))
    def draw(text: str) -> None:
        drawn.append(text)

    draw()

    assert {*FUNCTIONS, *AGGREGATIONS} - set(re.findall(r"[a-z_0-9]+", " ".join(drawn))) == NOT_COMPARED


def _compare(world: World, text: str, ask: Callable[[promql.Query, History], Values], expected: Values | str) -> None:
    for arrangement, history in world.histories.items():
        try:
            values: Values | str = ask(promql.compile(text, subquery_step_ms=15_000), history)
        except promql.PromqlError as error:
            values = str(error)
        if isinstance(values, str) and values.startswith("multiple matches") and re.search(r"[=!<>]=|[<>]", text):
            continue  # Prometheus 2 ignores an ambiguous match that a comparison filters (prometheus#17668)
        where = f"{text} ({world.kind}, {arrangement})"
        if isinstance(values, str) or isinstance(expected, str):
            assert isinstance(values, str) == isinstance(expected, str), (
                f"{where}: {values!s:.300} != {expected!s:.300}"
            )
            continue
        assert sorted(values) == sorted(expected), where
        wrong = {key: (values[key], value) for key, value in expected.items() if not _same(values[key], value)}
        assert wrong == {}, where


def _same(ours: float, theirs: float) -> bool:
    return ours == theirs or math.isclose(ours, theirs, rel_tol=1e-12) or (math.isnan(ours) and math.isnan(theirs))


def _instant(peer: Peer, text: str, at: int) -> Values | str:
    answer = peer.instant(text, at)
    return answer if isinstance(answer, str) else {(labels, at): value for labels, value in answer.items()}


def _range(peer: Peer, text: str, start: int) -> Values | str:
    answer = peer.over(text, start, start + STEPS * STEP, STEP)
    if isinstance(answer, str):
        return answer
    return {(labels, at): value for labels, values in answer.items() for at, value in values.items()}


def _at(query: promql.Query, history: History, at: int) -> Values:
    return {(labels, at): value for labels, value in query.evaluate_at(history, at * 1000)}


def _over(query: promql.Query, history: History, start: int) -> Values:
    matrix = query.evaluate_range(history, start * 1000, (start + STEPS * STEP) * 1000, STEP * 1000)
    points: Values = {}
    for labels, values, present in zip(matrix.labels, matrix.values.tolist(), matrix.present, strict=True):
        for step in present.nonzero()[0].tolist():
            points[labels, int(matrix.times[step]) // 1000] = values[step]
    return points
