"""The agent's end of the eye: gives it orders, delivers its answers, and replaces it when it does not answer."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from agent.children import Child
from agent.discovery import Collector
from agent.eye import Answer, Order, pass_of
from agent.gather import Pass

PATIENCE = 10.0  # seconds, or ten deadlines where that is more, before an eye that does not answer is replaced


class Sight:
    """The eye as the agent sees it: one child, one lane for each isolated collector."""

    def __init__(self, root: str, deliver: Callable[[Pass], None]) -> None:
        self._deliver = deliver
        self._lanes: dict[str, EyeLane] = {}
        self._log = structlog.get_logger()
        self._answers = msgspec.json.Decoder(Answer)
        self.child = Child("eye", ("agent.eye", root), on_line=self._answered, on_end=self._ended)

    def lane(self, name: str) -> EyeLane:
        """The place of one collector in the eye."""
        return self._lanes.setdefault(name, EyeLane(self))

    def order(self, lane: EyeLane, collector: Collector) -> None:
        """Sends the order for one pass; where no eye is running the pass fails at once."""
        own = None if collector.own is None else msgspec.to_builtins(collector.own)
        line = msgspec.json.encode(Order(collector.name, own)) + b"\n"
        if not self.child.send(line):
            self._fail(collector.name, lane, "the eye is not running")

    def watch(self, now: float) -> None:
        """Kills an eye in which a read has not returned for a long time."""
        for name, lane in self._lanes.items():
            if lane.busy_since is not None and now - lane.busy_since > max(PATIENCE, 10 * lane.deadline):
                self._log.warning("a read in the eye does not return; replacing the eye", collector=name)
                self.child.kill()
                return

    def _answered(self, line: bytes) -> None:
        answer = self._answers.decode(line)
        lane = self._lanes[answer.collector]
        began, lane.busy_since = lane.busy_since, None
        if began is not None:
            self._deliver(pass_of(answer, began))

    def _ended(self) -> None:
        for name, lane in self._lanes.items():
            if lane.busy_since is not None:
                self._fail(name, lane, "the eye ended while it was reading")

    def _fail(self, name: str, lane: EyeLane, reason: str) -> None:
        began, lane.busy_since = lane.busy_since, None
        if began is not None:
            self._deliver(Pass(name, began, 0.0, 0.0, (), (), reason))


class EyeLane:
    """A Lane whose passes run in the eye."""

    def __init__(self, sight: Sight) -> None:
        self.busy_since: float | None = None
        self.deadline = 0.0
        self._sight = sight

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began
        self.deadline = collector.deadline
        self._sight.order(self, collector)
