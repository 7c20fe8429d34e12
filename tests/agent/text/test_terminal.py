"""What commands print of others' text does nothing to whoever's terminal it is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from click.testing import CliRunner

from agent.__main__ import main
from agent.commands import _running
from agent.sampling.passes import CollectionResult
from agent.text import terminal
from collectors import Metric, Note, Sample
from tests.answering import answering

EVIL = "\x1b]0;title\x07\x9b2J\u202e"
SHOWN = r"\x1b]0;title\x07\x9b2J\u202e"


class Terminal(io.StringIO):
    """What a terminal was sent."""

    def isatty(self) -> bool:
        return True


def test_a_line_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    """What controls is shown, and a line end within a line is no new line."""
    terminal.say(f"comm {EVIL}", "a\nfaked: line\r")

    assert capsys.readouterr().out == f"comm {SHOWN}\na\\nfaked: line\\r\n"


def test_what_programs_read_is_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a pipe it is exact; on a terminal it is harmless, with its lines and tabs."""
    text = f'dimm{{name="{EVIL}"}}\t1\n'
    for stream, shown in ((io.StringIO(), text), (Terminal(), f'dimm{{name="{SHOWN}"}}\t1\n')):
        monkeypatch.setattr("sys.stdout", stream)
        terminal.write(text)
        assert stream.getvalue() == shown


def test_a_peers_answer() -> None:
    """`steadytok alert test` shows what a server says of it, and does nothing that it says."""
    with answering(500, EVIL.encode()) as address:
        said = CliRunner().invoke(main, ["alert", "test", "--alertmanager", address])

    assert SHOWN in said.stderr
    assert "\x1b" not in said.output


def test_what_remedies_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """`steadytok remedies list` and `try` print names, plans and reasons as text."""
    remedy = {"name": EVIL, "state": EVIL, "left": 1, "does": EVIL, "reversible": True, "match": [EVIL], "why": EVIL}
    told: dict[str, Any] = {"mode": "enforce", "halted": EVIL, "killed": False, "pauses": [EVIL]}
    told |= {"latches": [{"why": EVIL}], "remedies": [{**remedy, "last_ms": None, "waiting": [EVIL]}]}
    told |= {"outcome": "intended", "says": EVIL, "prior": EVIL, "would_write": EVIL}
    monkeypatch.setattr(_running, "call_agent", lambda *_: told)

    for words in (["remedies", "list"], ["remedies", "try", "x"]):
        said = CliRunner().invoke(main, words)
        assert said.exit_code == 0
        assert SHOWN in said.output
        assert "\x1b" not in said.output


def test_reasons_of_collectors(capsys: pytest.CaptureFixture[str]) -> None:
    """`steadytok check` and `collect` print paths and reasons, which have names of devices in them, as text."""
    from agent.commands import check, collect

    labels = (("source", EVIL), ("sensor", EVIL), ("reason", EVIL))
    unplaced = Sample(Metric(check.UNPLACED, "gauge", "A test."), labels, 1.0)
    result = CollectionResult("dimm", 0.0, 0.0, 0.0, (unplaced,), (Note(EVIL, EVIL),))
    check._print_result(result, EVIL)
    collect._print_faults(result)
    told = capsys.readouterr()

    assert f"missing  {SHOWN}: {SHOWN}" in told.out
    assert f"unplaced  {SHOWN}/{SHOWN}: {SHOWN}" in told.out
    assert f"missing: {SHOWN}: {SHOWN}" in told.err
    assert "\x1b" not in told.out + told.err
