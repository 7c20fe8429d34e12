"""Foreign text cannot control a terminal."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.text import log
from agent.text.printable import escape_line, escape_lines


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("90 °C × 3 – naïve 日本", "90 °C × 3 – naïve 日本"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("evil\u202etxt.exe", r"evil\u202etxt.exe"),
        ("\x9b31m \u2028 \udcff", r"\x9b31m \u2028 \udcff"),
    ],
)
def test_controls_are_shown(text: str, escaped: str) -> None:
    """Escape sequences, carriage returns and direction marks are printed as escapes."""
    assert escape_line(text) == escaped


@given(st.text())
def test_nothing_controls(text: str) -> None:
    """No control character remains of any text, except the line ends that `escape_lines` keeps."""
    categories = {unicodedata.category(char) for char in escape_line(text)}

    assert not categories & {"Cc", "Cf", "Cs"}
    assert escape_lines(text).count("\n") == text.count("\n")


class Terminal(io.StringIO):
    """Records the text sent to a terminal."""

    def isatty(self) -> bool:
        return True


def test_log_lines_on_a_terminal() -> None:
    """A label with an escape sequence is logged in escaped form."""
    import structlog

    terminal = Terminal()
    log.configure(terminal)
    try:
        structlog.get_logger().info("remedy: begin", remedy="\x1b[2Jx", says=None)
    finally:
        structlog.reset_defaults()

    assert "\x1b[2J" not in terminal.getvalue()
    assert r"\x1b[2Jx" in terminal.getvalue()
