"""The built-in rules and their unit tests before the judge that Prometheus ships."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.processes import require_program
from tests.rules.missing_evidence import BuiltinRule, ask, drop, list_rules, list_sampled, list_worlds, write_test

HOUSE = Path(__file__).parents[2]
FILES = sorted((HOUSE / "rules" / "builtin").glob("*.yml"))
TESTS = sorted((HOUSE / "tests" / "rules" / "builtin").glob("*.yml"))


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require_program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.deep
def test_promtool_finds_no_fault_with_the_rules() -> None:
    """Every file is a Prometheus rule file, and no two rules have the same name and labels."""
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *FILES)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == len(FILES) > 0


@pytest.mark.deep
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_unit_tests_pass_promtool(path: Path) -> None:
    """Each case fires what it should, with exact labels and annotations, and nothing else."""
    done = promtool("test", "rules", path)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.deep
@pytest.mark.parametrize("rule", [rule for rule in list_rules() if list_sampled(rule)], ids=str)
def test_promtool_hears_the_same_where_a_selector_is_missing(rule: BuiltinRule, tmp_path: Path) -> None:
    """In each sick world without one of its selectors, the rule speaks or is silent in Prometheus as in the agent."""
    sick, _ = list_worlds(rule)
    worlds = [drop(world, selector) for selector in list_sampled(rule).values() for world in sick]
    path = write_test(tmp_path, rule, list(zip(worlds, ask(tmp_path, rule, worlds), strict=True)))
    done = promtool("test", "rules", path)

    assert done.returncode == 0, done.stdout + done.stderr
