"""Regular expressions: the memory of what queries and templates compile is bounded, and does not stay."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import re2

from rules import matchers, promql
from rules.patterns import MAX_LENGTH, PatternCache, compile_bounded, estimate_bytes
from rules.templates.budget import PATTERN_COST, Budget

HOUSE = Path(__file__).parents[2]
SOURCES = [path for room in ("agent", "collectors", "hand", "rules") for path in sorted((HOUSE / room).rglob("*.py"))]
LARGE = r"\\pN{150}"  # half a megabyte when compiled


def _build_options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.dot_nl = True
    options.max_mem = 1 << 20
    return options


def test_re2_keeps_no_pattern_that_was_compiled_here() -> None:
    """The re2 module returns the same object for a pattern in its cache; a compiled pattern must not be in there."""
    compiled = compile_bounded("a+b", dot_matches_newline=True)
    first = re2.compile("a+b", _build_options())

    assert first is not compiled
    assert re2.compile("a+b", _build_options()) is first
    re2.purge()


def test_the_patterns_of_a_query_end_with_it() -> None:
    """Two queries with the same pattern share its test; when both are gone, nothing holds it."""
    pattern = "shared_by_two_queries|x.*"
    queries = [promql.compile(f'up{{job=~"{pattern}"}}') for _ in range(2)]
    tests = {
        id(matcher.test) for query in queries for group in query._matchers for matcher in group if matcher.op == "=~"
    }

    assert len(tests) == 1
    del queries
    gc.collect()
    assert ("=~", pattern) not in matchers._shared_tests


@pytest.mark.parametrize(
    "query",
    [
        'count({__name__=~"%s"})',
        'up{job!~"%s"}',
        'rate(up{a=~"%s"}[5m])',
    ],
)
def test_a_pattern_that_is_too_long_is_refused_in_a_sentence(query: str) -> None:
    """The reason has the length and the limit, and does not repeat the whole pattern."""
    with pytest.raises(promql.PromqlError, match="it has 16,385 characters, and 16,384 are allowed") as error:
        promql.compile(query % ("x" * (MAX_LENGTH + 1)))

    assert len(str(error.value)) < 500
    assert promql.compile(query % ("x" * MAX_LENGTH))


@pytest.mark.parametrize(
    "selectors",
    [
        [f'up{{a=~"{LARGE}{number}"}}' for number in range(40)],
        ["up{" + ",".join(f'a{number}!~"{LARGE}"' for number in range(40)) + "}"],
    ],
    ids=["many selectors", "one selector"],
)
def test_the_patterns_of_one_query_are_bounded_together(selectors: list[str]) -> None:
    """A short text can stand for a large automaton, so what is counted is the size after compilation."""
    with pytest.raises(promql.PromqlError, match="regular expressions of this query take more than 16 MiB"):
        promql.compile(" or ".join(selectors))

    assert promql.compile(selectors[0].split(",")[0].rstrip("}") + "}")


def test_a_pattern_that_only_a_large_limit_takes_is_compiled() -> None:
    """Prometheus takes a hundred letters of any script; templates, which compile more patterns, do not."""
    assert compile_bounded(r"\pL{100}", dot_matches_newline=True).fullmatch("é" * 100) is not None
    with pytest.raises(ValueError, match="too large"):
        compile_bounded(r"\pL{100}", dot_matches_newline=True, allows_large=False)


def test_the_patterns_used_longest_ago_leave_the_cache_one_by_one() -> None:
    """A cache at its limit drops as little as it must; it is never emptied."""
    sizes = {
        text: estimate_bytes(text, compile_bounded(text, dot_matches_newline=False)) for text in ("aa", "bb", "cc")
    }
    cache = PatternCache(sum(sizes.values()))
    for text in sizes:
        cache.add(text, compile_bounded(text, dot_matches_newline=False))
    cache.find("aa")
    cache.add("dd", compile_bounded("dd", dot_matches_newline=False))

    assert [text for text in ("aa", "bb", "cc", "dd") if cache.find(text) is None] == ["bb"]
    assert cache.size == sum(sizes.values())


def test_a_pattern_larger_than_the_cache_leaves_the_others_in_it() -> None:
    """It is compiled anew at each use instead."""
    cache = PatternCache(10_000)
    for text in ("small", "x{1000}"):
        cache.add(text, compile_bounded(text, dot_matches_newline=False))

    assert cache.find("small") is not None
    assert cache.find("x{1000}") is None


def test_a_template_pays_for_a_pattern_once() -> None:
    """The next uses in the same evaluation cost a step; a bad pattern costs a compilation each time."""
    budget = Budget()
    budget.begin_expansion()
    before = budget._remaining
    for _ in range(3):
        budget.compile_pattern("a.*b")
    for _ in range(2):
        with pytest.raises(ValueError, match="missing"):
            budget.compile_pattern("(")

    assert 3 * PATTERN_COST < before - budget._remaining < 4 * PATTERN_COST


def _iter_dynamic_patterns(path: Path) -> Iterator[str]:
    """Yields the imports of re2, and the calls of `re` in functions whose pattern is not written there."""
    tree = ast.parse(path.read_text())
    if any(isinstance(node, ast.Import) and node.names[0].name == "re2" for node in ast.walk(tree)):
        yield f"{path.relative_to(HOUSE)}: re2"
    if path.is_relative_to(HOUSE / "collectors"):
        return  # they match the names of the kernel's files with names of their own
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for call in (node for function in functions for node in ast.walk(function) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if name.startswith("re.") and name != "re.escape" and not isinstance(call.args[0], ast.Constant):
            yield f"{path.relative_to(HOUSE)}: {name}"


def test_no_other_file_compiles_patterns_from_outside() -> None:
    """
    A pattern that a client, an engine or a file can choose goes through rules/patterns.py.

    The exceptions compile the agent's own address and the operator's process patterns.
    """
    assert sorted({line for path in SOURCES for line in _iter_dynamic_patterns(path)}) == [
        "agent/web/webhook_api.py: re.compile",
        "collectors/_process/targets.py: re2",
        "rules/patterns.py: re2",
    ]
