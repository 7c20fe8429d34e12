"""The hint that `steadytok check` prints beside a collector."""

from __future__ import annotations

import errno
import os

import pytest

from agent.commands.check import find_hint
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import bind_collector
from collectors import Note, gauge, process

ONE = gauge("steadytok_x_y", "One.").sample(1.0)
DENIED = Note("proc/7/maps", os.strerror(errno.EACCES))
assert ONE is not None


@pytest.mark.parametrize(
    ("samples", "notes", "expected"),
    [
        ((ONE,), (), ""),
        ((ONE,), (Note("proc/7/maps", "empty"),), ""),
        ((ONE,), (DENIED,), "only root may see where pages are"),
        ((), (DENIED,), "only root may see where pages are"),
        ((), (), "no known engine runs"),
        ((), (Note("process 7", "there is none"),), "process 7: there is none"),
    ],
)
def test_what_would_mend_it(samples: tuple[object, ...], notes: tuple[Note, ...], expected: str) -> None:
    """A refusal has a hint even if other readings came; a pass without a fault has none."""
    collector = bind_collector(process, "process", interval=None, deadline=None, config=None)
    result = CollectionResult("process", 0.0, 0.0, 0.0, samples, notes)  # type: ignore[arg-type]  # Samples, as they come

    assert find_hint(collector, result).startswith(expected)
    assert bool(find_hint(collector, result)) == bool(expected)
