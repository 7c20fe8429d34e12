"""Text of files: what is no text costs its line alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import Host
from collectors._host.files import ABSENT_ERRNOS, decode_text, means_absent


@pytest.mark.parametrize(
    ("raw", "text", "fault"),
    [
        (b" 0-3\n\0", "0-3", ""),
        (b"\0\0\0", "", ""),
        (b"a\0b\n", "a\0b", ""),  # strings that a NUL separates are for read_strings
        (b"caf\xe9", "caf\ufffd", "not text in 1 of 1 lines"),
        (b"MemFree: 1 kB\n\xff\x00\x01\nMemTotal: 2 kB\n", "MemFree: 1 kB\nMemTotal: 2 kB", "not text in 1 of 3 lines"),
        (bytes(range(256)), "", "not text in 2 of 2 lines"),
        ("a\ufffdb".encode(), "a\ufffdb", ""),  # somebody wrote it so
    ],
)
def test_text_is_decoded_line_by_line(raw: bytes, text: str, fault: str) -> None:
    """Bytes that are not UTF-8 become U+FFFD; a line of binary is left out; NULs at the end are white space."""
    assert decode_text(raw) == (text, fault)


@given(st.lists(st.text("abc 123:", min_size=1).map(str.encode), min_size=1), st.binary())
def test_no_bytes_hide_the_lines_beside_them(lines: list[bytes], damage: bytes) -> None:
    """Whatever bytes come between two texts, every line of both is still there."""
    lines = [b"first", *lines, b"last"]
    text, _ = decode_text(b"\n".join([*lines, b"x" + damage.replace(b"\n", b"") + b"x", *lines]))
    plain = [line.decode() for line in lines]

    assert text.split("\n")[: len(lines)] == plain
    assert text.split("\n")[-len(lines) :] == plain


def test_strings_with_foreign_bytes(tmp_path: Path) -> None:
    """One argument that is not UTF-8 loses no other argument of a command line, and is noted."""
    (tmp_path / "cmdline").write_bytes(b"vllm\0--path\0/mod\xe9le\0\0\0")
    host = Host(tmp_path)

    assert host.read_strings("cmdline") == ["vllm", "--path", "/mod\ufffdle"]
    assert [note.reason for note in host.take_notes()] == ["not text in 1 of 3 strings"]
    assert host.read_strings("environ") == []
    assert host.take_notes() == []


def test_which_errors_mean_absent() -> None:
    """A device, a feature or a file that this machine lacks is absent; an error that may pass is not."""
    passing = {errno.EIO, errno.EBUSY, errno.EAGAIN, errno.EINVAL, errno.ENODATA, errno.EACCES, errno.EMFILE}

    assert all(means_absent(OSError(code, os.strerror(code))) for code in ABSENT_ERRNOS)
    assert not any(means_absent(OSError(code, os.strerror(code))) for code in passing)
    assert not means_absent(OSError(0, "larger than 4 MiB"))
