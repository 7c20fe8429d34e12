"""What `steadytok check` says beside a collector."""

from __future__ import annotations

import errno
import os

import pytest

from agent.mending import find_hint
from agent.sampling.sampler import CollectionResult
from collectors import Note, gauge

ONE = gauge("steadytok_x_y", "One.").sample(1.0)
DENIED = Note("proc/7/maps", os.strerror(errno.EACCES))
assert ONE is not None


@pytest.mark.parametrize(
    ("samples", "notes", "said"),
    [
        ((ONE,), (), ""),
        ((ONE,), (Note("proc/7/maps", "empty"),), ""),
        ((ONE,), (DENIED,), "where pages are is told to root only"),
        ((), (DENIED,), "where pages are is told to root only"),
        ((), (), "no engine runs"),
        ((), (Note("process 7", "there is none"),), "process 7: there is none"),
    ],
)
def test_what_would_mend_it(samples: tuple[object, ...], notes: tuple[Note, ...], said: str) -> None:
    """What is refused is told beside a collector that gives the rest, too; what is well needs nothing."""
    result = CollectionResult("process", 0.0, 0.0, 0.0, samples, notes)  # type: ignore[arg-type]  # Samples, as they come

    assert find_hint(result).startswith(said)
    assert bool(find_hint(result)) == bool(said)
