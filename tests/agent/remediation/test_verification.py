"""What was measured before and after an act: compared at an equal load, journalled, and told in the diary."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from agent.commands import remedies as command
from agent.remediation import journal, transitions, verification
from agent.remediation.model import Act, Claim, Entry, Event, Kind, Measure, Phase, State
from agent.remediation.verification import Evidence, compared, judged

BEFORE = Measure({"r1": 124.0}, {"r1": 2}, 78.0, {"0": 40e9, "1": 1.2 * (1 << 30)}, (), {"r1": 0.1})
AFTER = Measure({"r1": 84.0}, {"r1": 2}, 74.0, {"0": 40e9, "1": 39.0 * (1 << 30)}, (39.5,), {"r1": 0.11})
CHANGE = (
    "node 1 available 1.2 GiB -> 39.0 GiB; r1 124 -> 84 ms per token; hottest DIMM 78 -> 74 °C; "
    "its expression nothing -> 39.5"
)
OWN = BEFORE._replace(hottest=None, available={})
"""Decode time alone."""
LABELS = (("alertname", "NodeNearlyFull"), ("node", "1"))


def test_a_change_is_told_of_nodes_tokens_and_heat() -> None:
    """A node whose memory has hardly changed is not worth a word."""
    assert compared(BEFORE, AFTER) == (CHANGE, True)


@pytest.mark.parametrize(
    ("before", "says", "faster"),
    [
        (None, "", None),
        (OWN._replace(load={"r1": 3}), "", None),
        (OWN._replace(context={"r1": 0.05}), "", None),
        (OWN._replace(context={}), "r1 124 -> 84 ms per token (context not known)", None),
        (OWN._replace(ms_per_token={"r1": 85.0}), "r1 85 -> 84 ms per token", False),
    ],
)
def test_what_cannot_be_compared_is_not(before: Measure | None, says: str, faster: bool | None) -> None:
    """Nothing known before, another load or context, a context that nobody knows, or a difference that is noise."""
    assert compared(before, AFTER._replace(shown=None)) == (says, faster)


FIRES = Evidence(None, True, "fires", False)


@pytest.mark.parametrize(
    ("evidence", "kind"),
    [
        (FIRES._replace(shown=True), Kind.HELPED),
        (FIRES._replace(shown=True, newer=False), None),
        (FIRES._replace(alert="ended"), Kind.HELPED),
        (FIRES._replace(alert="unknown"), None),
        (FIRES._replace(shown=False, alert="ended"), None),
        (FIRES, None),
        (FIRES._replace(over=True), Kind.HELPED),
        (FIRES._replace(shown=False, over=True), Kind.USELESS),
        (FIRES._replace(shown=True, newer=False, over=True), Kind.UNJUDGED),
        (FIRES._replace(shown=False, newer=False, over=True), Kind.UNJUDGED),
        (FIRES._replace(shown=False, alert="ended", over=True), Kind.UNJUDGED),
        (FIRES._replace(shown=False, alert="unknown", over=True), Kind.UNJUDGED),
    ],
)
def test_the_verdict(evidence: Evidence, kind: Kind | None) -> None:
    """Its own expression first, then the alert's end, then decode time; none before its time, or on what is old."""
    verdict = judged(evidence, BEFORE, AFTER)

    assert (None if verdict is None else verdict[0]) == kind


def test_an_alert_that_nobody_knows_of_is_no_success() -> None:
    """Its rule was removed, or a posted one has expired: whether the act helped is not known."""
    gone = Evidence(None, True, "unknown", True)

    assert judged(gone, BEFORE, BEFORE) == (Kind.UNJUDGED, SAME + "; the alert is gone or its evidence lost")
    assert judged(gone._replace(alert="fires"), BEFORE, BEFORE) == (Kind.USELESS, SAME)


SAME = "r1 124 -> 124 ms per token; hottest DIMM 78 -> 78 °C; its expression nothing -> nothing"


def test_measuring_asks_for_each() -> None:
    """What a host does not have is absent, and not 0."""
    known = {
        "steadytok_engine_tokens_per_second": [({"engine": "r1"}, 10.0), ({"engine": "r2"}, 0.0)],
        "steadytok_node_meminfo_available_bytes": [({"node": "0"}, 5.0)],
    }
    found = verification.measure(lambda expr: next((rows for name, rows in known.items() if name in expr), []))

    assert found == Measure({"r1": 100.0}, {}, None, {"0": 5.0})
    assert found.words == "r1 100 ms per token"


ACT = Act(1, "free", "page cache", LABELS, False, False, Phase.STARTED, 0, (Claim("free", LABELS, 0.0),))


def test_what_was_measured_is_journalled_with_the_act(tmp_path: Path) -> None:
    """Before the act, so that the verdict after a restart has it; and both in the audit's lines."""
    plan = "41.0 GiB of unmapped clean page cache"
    intended = transitions.apply(State(2, (ACT,)), Event(1, Kind.INTENDED, plan, value="1", before=BEFORE), 5)
    did = transitions.apply(intended.state, Event(1, Kind.DID, "freed", value="1"), 6)
    held = msgspec.json.decode(msgspec.json.encode(did.state), type=State)
    assert held.acts[0].before == BEFORE
    assert held.acts[0].plan == plan

    verdict = transitions.apply(held, Event(1, Kind.HELPED, f"{plan}; {CHANGE}", after=AFTER), 7)
    log = journal.Journal(tmp_path, lambda: journal.boot_now(7))
    log.commit(verdict.state, [*intended.entries, *did.entries, *verdict.entries], lambda _: None)
    log.close()
    first, second, third = journal.audit(tmp_path / journal.FILE, 9)
    assert first.says == f"{plan}; before: r1 124 ms per token; hottest DIMM 78 °C"
    assert (first.before, second.before, third.before, third.after) == (BEFORE, None, BEFORE, AFTER)


def test_the_diary_reads_like_one() -> None:
    """What was done, what it changed and whether it helped, in a line; as JSON with the numbers."""
    entry = Entry(0, "free", LABELS, "page cache", "helped", CHANGE, before=BEFORE, after=AFTER)

    assert command._line(entry).endswith(f"free (NodeNearlyFull): helped: {CHANGE}")
    told = json.loads(json.dumps(command._document(entry)))
    assert told["before"]["ms_per_token"] == {"r1": 124.0}
    assert told["after"]["hottest"] == 74.0
    assert "before" not in command._document(entry._replace(before=None))


def test_a_journal_of_before_is_read() -> None:
    """Lines and acts without measures, as an older agent wrote them."""
    line = json.dumps([0, "free", [], "page cache", "did", "freed", False, 1])
    older = msgspec.json.decode(msgspec.json.encode(State(2, (ACT,))), type=dict)
    for key in ("plan", "before"):
        del older["acts"][0][key]

    assert msgspec.json.decode('[{"r1":124.0},{"r1":2},78.0]', type=Measure) == Measure({"r1": 124.0}, {"r1": 2}, 78.0)
    assert msgspec.json.decode(line, type=Entry).after is None
    assert msgspec.json.decode(json.dumps(older), type=State).acts == (ACT,)
