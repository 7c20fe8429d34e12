"""Foreign text that commands print cannot control a terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from click.testing import CliRunner

from agent.__main__ import main
from agent.commands import _running
from agent.sampling.passes import CollectionResult
from agent.text import terminal
from collectors import Note, Sample
from tests.answering import serve_answer

EVIL = "\x1b]0;title\x07\x9b2J\u202e"
ESCAPED = r"\x1b]0;title\x07\x9b2J\u202e"


class Terminal(io.StringIO):
    """Records the text sent to a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_line_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters are escaped, also a line end within a line."""
    terminal.say(f"comm {EVIL}", "a\nfaked: line\r")

    assert capsys.readouterr().out == f"comm {ESCAPED}\na\\nfaked: line\\r\n"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_text_for_programs_keeps_its_lines(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    """All but line ends and tabs is escaped, on a terminal and in a pipe, which may end at one."""
    monkeypatch.setattr("sys.stdout", stream)
    terminal.write(f'dimm{{name="{EVIL}"}}\t1\n')

    assert stream.getvalue() == f'dimm{{name="{ESCAPED}"}}\t1\n'


def test_json_stays_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON with every control character is still the same JSON after it was printed."""
    value, stream = "".join(map(chr, range(0xA1))) + "\u202e\ud800", io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    terminal.write(json.dumps({"label": value}) + "\n")

    assert json.loads(stream.getvalue()) == {"label": value}
    assert stream.getvalue().rstrip("\n").isprintable()


def test_a_peers_answer() -> None:
    """`steadytok alert test` prints a server's answer in escaped form."""
    with serve_answer(500, EVIL.encode()) as address:
        result = CliRunner().invoke(main, ["alert", "test", "--alertmanager", address])

    assert ESCAPED in result.stderr
    assert "\x1b" not in result.output


def test_what_remedies_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """`steadytok remedies list` and `try` escape names, plans and reasons."""
    remedy = {"name": EVIL, "state": EVIL, "left": 1, "does": EVIL, "reversible": True, "match": [EVIL], "why": EVIL}
    answer: dict[str, Any] = {"mode": "enforce", "halted": EVIL, "killed": False, "pauses": [EVIL]}
    answer |= {"latches": [{"why": EVIL}], "remedies": [{**remedy, "last_ms": None, "waiting": [EVIL]}]}
    answer |= {"outcome": "intended", "says": EVIL, "prior": EVIL, "would_write": EVIL}
    monkeypatch.setattr(_running, "call_agent", lambda *_: answer)

    for words in (["remedies", "list"], ["remedies", "try", "x"]):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0
        assert ESCAPED in result.output
        assert "\x1b" not in result.output


def test_reasons_of_collectors(capsys: pytest.CaptureFixture[str]) -> None:
    """`steadytok check` and `collect` escape paths and reasons, which contain names of devices."""
    from agent.commands import check, collect
    from agent.sampling.plugins import bind_collector
    from collectors import dimm

    labels = (("source", EVIL), ("sensor", EVIL), ("reason", EVIL))
    unplaced = Sample(dimm.UNPLACED, labels, 1.0)
    collector = bind_collector(dimm, "dimm", interval=None, deadline=None, config=None)
    result = CollectionResult("dimm", 0.0, 0.0, 0.0, (unplaced,), (Note(EVIL, EVIL),))
    check._print_result(collector, result)
    collect._print_faults(result)
    output = capsys.readouterr()

    assert f"missing  {ESCAPED}: {ESCAPED}" in output.out
    assert f"unplaced  {ESCAPED}/{ESCAPED}: {ESCAPED}" in output.out
    assert f"missing: {ESCAPED}: {ESCAPED}" in output.err
    assert "\x1b" not in output.out + output.err
