"""A simulated host for tests of the evaluator: one collector, one rule group, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from collectors import Sample, gauge
from rules.alerts import Alert
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.model import RuleSet
from rules.rulefile import load_rules
from rules.state import RuleHealth

HOT = gauge("hot", "Heat.")
SECOND = 1000
HOUR = 3600 * SECOND


def load_rule_text(tmp_path: Path, rules: str, head: str = "") -> RuleSet:
    """Loads one group of rules, each in one line of YAML; `head` holds further keys of the group."""
    path = tmp_path / "r.yml"
    body = "\n".join(f"  - {rule}" for rule in rules.strip().split("\n"))
    path.write_text(f"groups:\n- name: g\n{head}  rules:\n{body}\n")
    return load_rules([path])


class Host:
    """A History that one collector feeds, and an evaluator that runs each second."""

    def __init__(self, rule_set: RuleSet, interval_ms: int = SECOND) -> None:
        self.history = History(HOUR)
        self.rules = RuleEvaluator(
            rule_set, interval_ms=interval_ms, external_labels={"site": "lab"}, external_url="", clock=_make_clock()
        )
        self.now_ms = 0

    def tick(self, *values: float, ms: int = SECOND, record: bool = True) -> None:
        self.now_ms += ms
        if record:
            self.history.record(
                "heat", self.now_ms, (Sample(HOT, (("dimm", str(n)),), v) for n, v in enumerate(values))
            )
        self.rules.evaluate(self.history, self.now_ms)

    def silence(self, ms: int = SECOND) -> None:
        """Silences the collector for one tick."""
        self.history.silence("heat", self.now_ms + ms)
        self.tick(ms=ms, record=False)

    @property
    def alert(self) -> Alert:
        (alert,) = self.rules.list_alerts()
        return alert

    @property
    def health(self) -> RuleHealth:
        return self.rules.health[-1]


def _make_clock() -> Callable[[], float]:
    """Makes a clock that advances by a quarter of a second with each call."""
    times = count()
    return lambda: next(times) / 4
