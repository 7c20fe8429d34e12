"""The built-in rules and their unit tests before the judge that Prometheus ships."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.processes import require_program

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
