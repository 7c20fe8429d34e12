"""Records of the kernel log: one read each, overruns, escapes, and any text."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from hypothesis import example, given
from hypothesis import strategies as st

from collectors import Host
from collectors._kernel.kmsg import parse_record, read_records


def test_an_overrun_is_survived() -> None:
    """EPIPE means that records were lost: it is noted, and the remaining records are read."""
    overrun, nothing_left = BrokenPipeError(errno.EPIPE, "Broken pipe"), BlockingIOError(errno.EAGAIN, "")
    answers: Iterator[bytes | OSError] = iter([b"first", overrun, b"second", nothing_left])
    host = Host("/nonexistent")

    def read() -> bytes:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert list(read_records(read, host)) == [b"first", b"second"]
    assert len(host.take_notes()) == 1


def test_a_device_gives_one_record_per_read() -> None:
    """A descriptor with separate messages, like the device, is read until it would block."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    try:
        for text in (b"6,1,5,-;one\n KEY=value\n", b"6,2,6,-;two\n"):
            os.write(writer, text)
        records = list(read_records(lambda: os.read(reader, 8192), Host("/nonexistent")))
    finally:
        os.close(reader)
        os.close(writer)

    assert [parse_record(record.decode()) for record in records] == [(0, 1, 5, "one"), (0, 2, 6, "two")]


def test_escapes_of_the_kernel_are_restored() -> None:
    """A backslash in a cgroup's name, written as an escape, is restored; continuation lines are no text."""
    record = parse_record("6,5,9,-,caller=T1;a\\x5cx2db; c\n SUBSYSTEM=cpu")

    assert record is not None
    assert record.text == "a\\x2db; c"


@given(st.integers(0, 191), st.integers(0, 2**63), st.integers(0, 2**63), st.text(st.characters(codec="ascii")))
def test_every_record_comes_back(priority: int, sequence: int, microseconds: int, text: str) -> None:
    """For any message, the parts of its record are parsed up to the end of the line."""
    text = text.replace("\\x", "")
    record = parse_record(f"{priority},{sequence},{microseconds},-;{text}")

    assert record == (priority >> 3, sequence, microseconds, text.split("\n")[0])


@given(st.text())
@example("6,1,2,-")
@example("6,1;text")
@example("-6,1,2,-;text")
def test_nothing_else_is_a_record(text: str) -> None:
    """Text without a record's head gives None, and never an error."""
    record = parse_record(text)

    assert record is None or text.split(",")[0].isdecimal()
