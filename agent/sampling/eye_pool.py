"""
The agent's end of the eye: gives it orders, delivers its answers, and sees to reads that do not return.

All isolated collectors share one eye, each on a thread there. One whose read does not return is moved to an eye of its
own, which can be killed and replaced without taking anybody else along; the thread that it leaves behind is the price.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from agent.runtime.child_process import Child
from agent.sampling.eye import Answer, Order, pass_of
from agent.sampling.eye_socket import EyeAtTheDoor
from agent.sampling.plugins import Collector
from agent.sampling.sampler import Pass

AnyEye = Child | EyeAtTheDoor

PATIENCE = 10.0  # seconds, or ten deadlines where that is more, before a read counts as one that does not return


class Sight:
    """Every eye of this agent, and the lanes of the collectors in them."""

    def __init__(
        self, root: str, deliver: Callable[[Pass], None], shelf: str | None = None, door: str | None = None
    ) -> None:
        """
        `shelf` is the folder for what collectors in the eye keep from one process to the next.

        `door` is the socket at which systemd starts an eye for whoever connects; without one they are our children.
        """
        self.door = door
        self._arguments = ("agent.sampling.eye", root) if shelf is None else ("agent.sampling.eye", root, shelf)
        self._deliver = deliver
        self._lanes: dict[str, EyeLane] = {}
        self._log = structlog.get_logger()
        self._answers = msgspec.json.Decoder(Answer)
        self._started = False
        self.shared = self._eye("eye")
        self._own: list[AnyEye] = []

    def _eye(self, name: str) -> AnyEye:
        def on_line(line: bytes) -> None:
            self._answered(eye, line)

        def on_end() -> None:
            self._ended(eye)

        eye: AnyEye
        if self.door is not None:
            eye = EyeAtTheDoor(name, self.door, on_line=on_line, on_end=on_end)
        else:
            eye = Child(name, self._arguments, on_line=on_line, on_end=on_end)
        return eye

    def lane(self, name: str) -> EyeLane:
        """The place of one collector in the eye, which is started with the first."""
        if name not in self._lanes:
            self._lanes[name] = EyeLane(self, self.shared)
            self._start_shared()
        return self._lanes[name]

    async def start(self) -> None:
        """Starts the eye if anybody needs it, and waits for it: else the first passes would fail."""
        self._started = True
        if self._lanes:
            self._start_shared()
            await self.shared.alive(5.0)

    def _start_shared(self) -> None:
        if self._started and not self.shared.started:
            self.shared.start()

    def order(self, lane: EyeLane, collector: Collector) -> None:
        """Sends the order for one pass; where no eye is running the pass fails at once."""
        own = None if collector.own is None else msgspec.to_builtins(collector.own)
        line = msgspec.json.encode(Order(collector.name, own)) + b"\n"
        if not lane.eye.send(line):
            self._fail(collector.name, lane, "the eye is not running")

    def watch(self, now: float) -> None:
        """Sees to every read that has not returned for a long time."""
        for name, lane in self._lanes.items():
            if lane.busy_since is not None and now - lane.busy_since > max(PATIENCE, 10 * lane.deadline):
                self._see_to(name, lane)

    def _see_to(self, name: str, lane: EyeLane) -> None:
        if lane.eye is not self.shared:
            if lane.killed != lane.eye.life:  # once: in uninterruptible sleep it stays until the kernel lets it go
                self._log.warning("a read does not return; its eye is replaced", collector=name)
                lane.killed = lane.eye.life
                lane.eye.kill()
            return
        self._log.warning("a read does not return; the collector goes on in an eye of its own", collector=name)
        lane.eye = self._eye(f"eye of {name}")
        lane.eye.start()
        self._own.append(lane.eye)
        self._fail(name, lane, "the read did not return")

    def _answered(self, eye: AnyEye, line: bytes) -> None:
        try:
            answer = self._answers.decode(line)
        except msgspec.MsgspecError as error:
            self._log.warning(
                "the eye said what is no answer", line=line[:200].decode("utf-8", "replace"), reason=str(error)
            )
            return
        lane = self._lanes.get(answer.collector)
        if lane is None or lane.eye is not eye or lane.busy_since is None:
            return  # the answer to a read that nobody waits for any more
        began, lane.busy_since = lane.busy_since, None
        self._deliver(pass_of(answer, began))

    def _ended(self, eye: AnyEye) -> None:
        for name, lane in self._lanes.items():
            if lane.eye is eye and lane.busy_since is not None:
                self._fail(name, lane, "the eye ended while it was reading")

    def _fail(self, name: str, lane: EyeLane, reason: str) -> None:
        began, lane.busy_since = lane.busy_since, None
        if began is not None:
            self._deliver(Pass(name, began, 0.0, 0.0, (), (), reason))

    async def close(self) -> None:
        """Ends every eye."""
        await asyncio.gather(*(child.close() for child in (self.shared, *self._own)))


class EyeLane:
    """A Lane whose passes run in an eye."""

    def __init__(self, sight: Sight, eye: AnyEye) -> None:
        self.busy_since: float | None = None
        self.deadline = 0.0
        self.eye = eye
        self.killed: int | None = None
        self._sight = sight

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began
        self.deadline = collector.deadline
        self._sight.order(self, collector)
