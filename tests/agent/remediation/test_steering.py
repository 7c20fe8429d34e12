"""Steering hears every claim on an act, and logs a change of reason once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.actions import Steered
from agent.config.loader import parse
from agent.config.schema import RemediationConfig
from agent.remediation import catalog, journal
from agent.remediation.context import RemediationContext
from agent.remediation.model import Act, Claim, Phase
from agent.remediation.remediator import Remediator
from agent.runtime.clock import Clock
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.model import RuleSet

TIME = [1000.0]
"""Seconds of the test's clock."""
LABELS = (("alertname", "DimmHot"),)


def make_remedy(name: str, alert: str, **parameters: Any) -> dict[str, Any]:
    target = {"engine": "r1"}
    return {
        "name": name,
        "match": [f'alertname="{alert}"'],
        "action": "pace",
        "target": target,
        "parameters": parameters,
    }


@pytest.fixture(name="remedies")
def _remedies(tmp_path: Path) -> Iterator[Remediator]:
    remedies = [
        make_remedy("cool", "DimmHot", control={}),
        make_remedy("slow", "CpuHot", duty=0.6),
        make_remedy("other", "Else"),
    ]
    engines = [{"name": "r1", "url": "http://127.0.0.1:1"}]
    config = parse({"engines": engines, "remedies": remedies, "remediation": {"builtin": False}}, "f", {})
    rules = RuleEvaluator(RuleSet(()), interval_ms=1000, external_labels={}, external_url="")
    context = RemediationContext(
        Clock(lambda: TIME[0]), History(3_600_000), lambda: rules, {}, "/", tmp_path, tmp_path / "token", "left"
    )
    yield Remediator(context, RemediationConfig(), catalog.bind_remedies(config, "f"))


def make_act(*claims: str) -> Act:
    claim_values = tuple(Claim(name, LABELS, 0.7) for name in claims)
    return Act(1, "cool", "pace engine r1", LABELS, False, True, Phase.HELD, 0, claim_values, 0, "1.0", ("0.7",))


def test_each_claim_on_the_resource_is_heard(remedies: Remediator) -> None:
    """The other claims' tasks are passed beside the strictest one, each once, with the alert's labels."""
    held_act = make_act("cool", "slow", "slow", "left")
    _, task = remedies._action_of(held_act)
    (beside,) = remedies._list_other_tasks(held_act, task)

    assert (task.remedy, beside.remedy, beside.own.duty, beside.labels) == ("cool", "slow", 0.6, dict(LABELS))


def test_a_new_reason_is_told_once_and_not_oftener_than_each_minute(remedies: Remediator, tmp_path: Path) -> None:
    """A sensor that comes and goes each second does not fill the audit."""

    async def hold() -> None:
        for second in range(150):
            TIME[0] = 1000.0 + second
            reason = "holds" if second < 10 or second % 2 else "blind"
            remedies._report_steering(make_act("cool"), Steered(reason, f"{reason} at {second}"))
        await remedies.close()

    asyncio.run(hold())
    reasons = [entry.says for entry in journal.read_audit(tmp_path / journal.FILE, 100) if entry.what == "steers"]

    assert reasons == ["holds at 0", "blind at 60", "holds at 121"]
