"""Stop strings, wherever the borders of tokens are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.serving.transcript import Transcript

LETTERS = st.text("ab€", max_size=30)
STOPS = st.lists(st.text("ab€", min_size=1, max_size=4), max_size=4).map(tuple)


class PieceDecoder:
    """A decoder whose token is the index of a piece of text."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def decode_token(self, token: int, *, last: bool = False) -> str:
        """Returns the piece."""
        return self.pieces[token]


def send_pieces(pieces: list[str], stops: tuple[str, ...]) -> list[str]:
    """Returns the text that is sent for each piece, up to a stop string."""
    transcript = Transcript(PieceDecoder(pieces), stops)
    texts = []
    for token in range(len(pieces)):
        text, stopped = transcript.add_token(token, last=token == len(pieces) - 1)
        texts.append(text)
        if stopped:
            break
    return texts


def cut_at_stop(text: str, stops: tuple[str, ...]) -> str:
    """Returns the text before the stop string that is complete first, of several the longest."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@given(LETTERS, STOPS, st.data())
def test_borders_of_tokens_do_not_matter(text: str, stops: tuple[str, ...], data: st.DataObject) -> None:
    """However a text is split into tokens, the text before the first complete stop string is sent."""
    borders = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *borders], [*borders, len(text)], strict=True)]

    assert "".join(send_pieces(pieces, stops)) == cut_at_stop(text, stops)


@given(LETTERS, STOPS)
def test_what_was_sent_stays(text: str, stops: tuple[str, ...]) -> None:
    """No part of a stop string is ever sent: the sent text is always a prefix of the text before it."""
    sent, expected = "", cut_at_stop(text, stops)
    for piece in send_pieces(list(text) or [""], stops):
        sent += piece

        assert expected.startswith(sent)


@given(LETTERS)
def test_nothing_is_held_back_without_need(text: str) -> None:
    """Without stop strings each token's text is sent at once."""
    assert send_pieces(list(text) or [""], ()) == (list(text) or [""])


def test_what_might_be_a_stop_string_waits() -> None:
    """The beginning of a stop string is withheld, and sent only if it turns out to be something else."""
    assert send_pieces(["x", "E", "N", "X", "END", "more"], ("END",)) == ["x", "", "", "ENX", ""]


def test_end_gives_what_was_held() -> None:
    """After a stop token the withheld text is sent."""
    transcript = Transcript(PieceDecoder(["a<"]), ("<end>",))

    assert transcript.add_token(0, last=False) == ("a", False)
    assert transcript.flush() == "<"
    assert transcript.flush() == ""


@pytest.mark.parametrize("last", [False, True])
def test_the_last_token_may_complete_it(last: bool) -> None:
    """A stop string ends the answer, also with the last allowed token."""
    transcript = Transcript(PieceDecoder(["a", "<end>"]), ("<end>",))
    transcript.add_token(0, last=False)

    assert transcript.add_token(1, last=last) == ("", True)
