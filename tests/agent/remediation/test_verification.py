"""Measurements before and after an act: compared at an equal load, journalled, and shown in the diary."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from agent.commands import remedies as command
from agent.remediation import journal, transitions, verification
from agent.remediation.model import Act, AuditEntry, Claim, Event, EventKind, Measure, Phase, RemediationState
from agent.remediation.verification import VerificationEvidence, compare, judge

BEFORE = Measure({"r1": 124.0}, {"r1": 2}, 78.0, {"0": 40e9, "1": 1.2 * (1 << 30)}, (), {"r1": 0.1})
AFTER = Measure({"r1": 84.0}, {"r1": 2}, 74.0, {"0": 40e9, "1": 39.0 * (1 << 30)}, (39.5,), {"r1": 0.11})
CHANGE = (
    "node 1 available 1.2 GiB -> 39.0 GiB; r1 124 -> 84 ms per token; hottest DIMM 78 -> 74 °C; "
    "its expression nothing -> 39.5"
)
DECODE_ONLY = BEFORE._replace(hottest=None, available={})
"""Decode time alone."""
LABELS = (("alertname", "NodeNearlyFull"), ("node", "1"))


def test_a_change_is_told_of_nodes_tokens_and_heat() -> None:
    """A node whose memory has hardly changed is left out."""
    assert compare(BEFORE, AFTER) == (CHANGE, True)


@pytest.mark.parametrize(
    ("before", "sentence", "faster"),
    [
        (None, "", None),
        (DECODE_ONLY._replace(load={"r1": 3}), "", None),
        (DECODE_ONLY._replace(context={"r1": 0.05}), "", None),
        (DECODE_ONLY._replace(context={}), "r1 124 -> 84 ms per token (context not known)", None),
        (DECODE_ONLY._replace(ms_per_token={"r1": 85.0}), "r1 85 -> 84 ms per token", False),
    ],
)
def test_what_cannot_be_compared_is_not(before: Measure | None, sentence: str, faster: bool | None) -> None:
    """Nothing measured before, another load or context, an unknown context, or a difference that is noise."""
    assert compare(before, AFTER._replace(expression_values=None)) == (sentence, faster)


FIRES = VerificationEvidence(None, True, "fires", False)


@pytest.mark.parametrize(
    ("evidence", "kind"),
    [
        (FIRES._replace(expression_holds=True), EventKind.HELPED),
        (FIRES._replace(expression_holds=True, newer=False), None),
        (FIRES._replace(alert="ended"), EventKind.HELPED),
        (FIRES._replace(alert="unknown"), None),
        (FIRES._replace(expression_holds=False, alert="ended"), None),
        (FIRES, None),
        (FIRES._replace(expired=True), EventKind.HELPED),
        (FIRES._replace(expression_holds=False, expired=True), EventKind.USELESS),
        (FIRES._replace(expression_holds=True, newer=False, expired=True), EventKind.UNJUDGED),
        (FIRES._replace(expression_holds=False, newer=False, expired=True), EventKind.UNJUDGED),
        (FIRES._replace(expression_holds=False, alert="ended", expired=True), EventKind.UNJUDGED),
        (FIRES._replace(expression_holds=False, alert="unknown", expired=True), EventKind.UNJUDGED),
    ],
)
def test_the_verdict(evidence: VerificationEvidence, kind: EventKind | None) -> None:
    """The remedy's expression decides first, then the alert's end, then decode time; old evidence decides nothing."""
    verdict = judge(evidence, BEFORE, AFTER)

    assert (None if verdict is None else verdict[0]) == kind


def test_an_alert_that_nobody_knows_of_is_no_success() -> None:
    """If its rule was removed or its post has expired, it is unknown whether the act helped."""
    unknown = VerificationEvidence(None, True, "unknown", True)

    assert judge(unknown, BEFORE, BEFORE) == (EventKind.UNJUDGED, SAME + "; the alert is gone or its evidence lost")
    assert judge(unknown._replace(alert="fires"), BEFORE, BEFORE) == (EventKind.USELESS, SAME)


SAME = "r1 124 -> 124 ms per token; hottest DIMM 78 -> 78 °C; its expression nothing -> nothing"


def test_measuring_asks_for_each() -> None:
    """A value that a host does not have is absent, and not 0."""
    rows_by_name = {
        "steadytok_engine_tokens_per_second": [({"engine": "r1"}, 10.0), ({"engine": "r2"}, 0.0)],
        "steadytok_node_meminfo_available_bytes": [({"node": "0"}, 5.0)],
    }
    measured = verification.measure(
        lambda expr: next((rows for name, rows in rows_by_name.items() if name in expr), [])
    )

    assert measured == Measure({"r1": 100.0}, {}, None, {"0": 5.0})
    assert measured.summary == "r1 100 ms per token"


ACT = Act(1, "free", "page cache", LABELS, False, False, Phase.STARTED, 0, (Claim("free", LABELS, 0.0),))


def test_what_was_measured_is_journalled_with_the_act(tmp_path: Path) -> None:
    """The journal has it before the act, so that a verdict after a restart has it; the audit has both."""
    plan = "41.0 GiB of unmapped clean page cache"
    intended = transitions.apply(
        RemediationState(2, (ACT,)), Event(1, EventKind.INTENDED, plan, value="1", before=BEFORE), 5
    )
    did = transitions.apply(intended.state, Event(1, EventKind.DID, "freed", value="1"), 6)
    restored = msgspec.json.decode(msgspec.json.encode(did.state), type=RemediationState)
    assert restored.acts[0].before == BEFORE
    assert restored.acts[0].plan == plan

    verdict = transitions.apply(restored, Event(1, EventKind.HELPED, f"{plan}; {CHANGE}", after=AFTER), 7)
    log = journal.Journal(tmp_path, lambda: journal.take_timestamp(7))
    log.commit(verdict.state, [*intended.entries, *did.entries, *verdict.entries], lambda _: None)
    log.close()
    first, second, third = journal.read_audit(tmp_path / journal.FILE, 9)
    assert first.says == f"{plan}; before: r1 124 ms per token; hottest DIMM 78 °C"
    assert (first.before, second.before, third.before, third.after) == (BEFORE, None, BEFORE, AFTER)


def test_the_diary_reads_like_one() -> None:
    """One line has the act, its effect and the verdict; JSON has the numbers."""
    entry = AuditEntry(0, "free", LABELS, "page cache", "helped", CHANGE, before=BEFORE, after=AFTER)

    assert command._format_entry(entry).endswith(f"free (NodeNearlyFull): helped: {CHANGE}")
    decoded = json.loads(json.dumps(command._to_json(entry)))
    assert decoded["before"]["ms_per_token"] == {"r1": 124.0}
    assert decoded["after"]["hottest"] == 74.0
    assert "before" not in command._to_json(entry._replace(before=None))


def test_a_journal_of_before_is_read() -> None:
    """Lines and acts of an older agent have no measurements."""
    line = json.dumps([0, "free", [], "page cache", "did", "freed", False, 1])
    older = msgspec.json.decode(msgspec.json.encode(RemediationState(2, (ACT,))), type=dict)
    for key in ("plan", "before"):
        del older["acts"][0][key]

    assert msgspec.json.decode('[{"r1":124.0},{"r1":2},78.0]', type=Measure) == Measure({"r1": 124.0}, {"r1": 2}, 78.0)
    assert msgspec.json.decode(line, type=AuditEntry).after is None
    assert msgspec.json.decode(json.dumps(older), type=RemediationState).acts == (ACT,)
