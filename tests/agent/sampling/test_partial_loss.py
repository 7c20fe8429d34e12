"""Which vanished series count as lost."""

from __future__ import annotations

from agent.sampling.partial_loss import PartialLoss
from agent.sampling.passes import CollectionResult
from collectors import Note, Sample
from tests.agent.sampling.fakes import METRIC


def record(loss: PartialLoss, series: str, notes: str = "", passes: int = 1) -> int:
    """Records passes that give these series and have these notes, a letter each; returns what is missing then."""
    samples = tuple(Sample(METRIC, (("n", letter),), 1.0) for letter in series)
    for _ in range(passes):
        noted = tuple(Note(letter, "unreadable") for letter in notes)
        loss.record_result(CollectionResult("test", 0.0, 0.0, 0.0, samples, noted))
    return loss.missing_series


def test_what_vanishes_with_a_new_note_is_lost() -> None:
    """Two series that vanish when a file becomes unreadable are lost until they are back."""
    loss = PartialLoss()

    assert record(loss, "abc", passes=3) == 0
    assert record(loss, "a", notes="x", passes=5) == 2
    assert record(loss, "ab", notes="x") == 1
    assert record(loss, "abc") == 0


def test_a_loss_is_no_loss_at_once() -> None:
    """A slow BMC gives its sensors in turns: each is back before it counts."""
    loss = PartialLoss()
    record(loss, "abcd", notes="bmc")

    assert [record(loss, turn, notes="bmc") for turn in ("ab", "cd", "ab", "cd", "ab", "cd")] == [0] * 6


def test_what_ends_without_a_note_is_no_loss() -> None:
    """A process that ends and a CPU that goes offline leave no note, nor does an old note explain their end."""
    loss = PartialLoss()
    record(loss, "abc", notes="x", passes=2)

    assert record(loss, "a", notes="x", passes=9) == 0
    assert record(loss, "", passes=9) == 0


def test_a_loss_ends_with_its_note() -> None:
    """A device that was noted while it was unplugged is no longer missing once nothing is unreadable."""
    loss = PartialLoss()
    record(loss, "ab")

    assert record(loss, "a", notes="x", passes=5) == 1
    assert record(loss, "a", notes="y", passes=5) == 1
    assert record(loss, "a") == 0


def test_a_pass_that_fails_forgets_no_loss() -> None:
    """A collector that fails as a whole has its own alert; what it had lost before stays counted."""
    loss = PartialLoss()
    record(loss, "ab")
    record(loss, "a", notes="x", passes=5)
    loss.record_result(CollectionResult("test", 0.0, 0.0, 0.0, (), (), "KeyError"))

    assert loss.missing_series == 1
