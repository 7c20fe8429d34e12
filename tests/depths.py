"""Marks single cases of a test for the deep suite: the fast one keeps an example of each kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def keep_fast(cases: Iterable[str], *fast: str) -> list[Any]:
    """Returns the cases of a parametrized test; those that are not named as fast run in `make deep` alone."""
    return [case if case in fast else pytest.param(case, marks=pytest.mark.deep) for case in sorted(cases)]
