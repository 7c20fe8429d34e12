"""Reads under way, those that were abandoned, and when their files are read again."""

from __future__ import annotations

import threading

import pytest

from collectors._host import pending_reads
from collectors._host.pending_reads import PendingRead, PendingReads, ReadAbandonedError


def abandon_within(reads: PendingReads, path: str) -> None:
    """Abandons the read of a path while it is under way, in this thread."""
    with pytest.raises(ReadAbandonedError), PendingRead(reads, path):
        assert reads.abandon(threading.get_ident(), 0.0) == path


def test_an_abandoned_read_ends_its_thread() -> None:
    """The end of the read raises what no collector catches, and its file is skipped."""
    reads = PendingReads()

    abandon_within(reads, "stuck")

    assert not issubclass(ReadAbandonedError, Exception)
    assert reads.explain_skip("stuck") is not None
    assert reads.explain_skip("other") is None
    assert reads.find_path(threading.get_ident()) is None


def test_a_file_is_read_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose read has returned is skipped until the delay is over, and then read as any other."""
    reads = PendingReads()
    abandon_within(reads, "stuck")
    assert "it is read again after 60 s" in (reads.explain_skip("stuck") or "")

    monkeypatch.setattr(pending_reads, "_RETRY_DELAY", 0.0)
    assert reads.explain_skip("stuck") is None
    with PendingRead(reads, "stuck"):
        assert reads.find_path(threading.get_ident()) == "stuck"


def test_a_read_that_goes_on_is_not_abandoned() -> None:
    """Neither a read that has just made progress is abandoned, nor one of another thread, nor none."""
    reads = PendingReads()
    assert reads.abandon(threading.get_ident(), 0.0) is None
    with PendingRead(reads, "long") as read:
        read.note_progress()
        assert reads.abandon(threading.get_ident(), 3600.0) is None
        assert reads.abandon(threading.get_ident() + 1, 0.0) is None
        assert reads.abandon(None, 0.0) is None
    assert reads.explain_skip("long") is None


def test_a_file_that_drips_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without an end is abandoned after its longest time, whatever progress it makes."""
    monkeypatch.setattr(pending_reads, "_LONGEST", 0.0)
    reads = PendingReads()
    with pytest.raises(ReadAbandonedError), PendingRead(reads, "endless") as read:
        read.note_progress()
        assert reads.abandon(threading.get_ident(), 3600.0) == "endless"


def test_an_error_of_an_abandoned_read_is_dropped() -> None:
    """A read that fails after it was abandoned ends its thread like one that succeeds."""
    reads = PendingReads()
    with pytest.raises(ReadAbandonedError), PendingRead(reads, "stuck"):
        reads.abandon(threading.get_ident(), 0.0)
        raise OSError(5, "Input/output error")
