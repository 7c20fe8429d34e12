"""
freeze: lets a unit run for a share of each period and freezes it for the rest, for engines that cannot pace.

Uses the cgroup freezer, which the unit's processes can neither notice nor refuse.
https://docs.kernel.org/admin-guide/cgroup-v2.html (cgroup.freeze)
"""

from __future__ import annotations

import threading

from hand.arguments import Arguments
from hand.errors import HandError, HandRefusedError
from hand.leases import Lease
from hand.limits import RateLimit
from hand.verb import JsonObject, Operation, Verb, VerbContext, acquire_lease
from hand.verbs._units import get_permitted_unit, resolve_unit_file

MIN_DUTY = 0.1
MIN_PERIOD, MAX_PERIOD = 0.05, 10.0  # seconds
JOIN_TIMEOUT = 2.0  # seconds; a write to cgroup.freeze does not wait for the processes
_FULL_DUTY = "1"


class DutyCycle:
    """
    A thread that freezes and thaws a unit; when the thread ends, the unit is thawed.

    The thread outlives the cgroup, which disappears when the unit stops and returns when the unit restarts.
    """

    def __init__(self, context: VerbContext, path: str) -> None:
        self._context = context
        self._path = path
        self._stopping = threading.Event()
        self.error = ""
        """The reason why the last write failed."""
        self._duty, self._period = 1.0, 1.0
        self._thread = threading.Thread(target=self._run, name=f"freeze {path}", daemon=True)

    def configure(self, duty: float, period: float) -> None:
        """Sets duty and period from the next period on; the first call starts the thread."""
        self._duty, self._period = duty, period
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """Ends the thread and thaws the unit; raises HandError when the kernel refuses."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_TIMEOUT)
            if self._thread.is_alive():
                raise HandError(f"{self._path}: the kernel does not return from a write")
        if self._context.files.exists(self._path):  # a stopped unit has no cgroup and needs no thaw
            self._context.files.write(self._path, "0")

    def _run(self) -> None:
        while not self._stopping.wait(self._duty * self._period):
            self._write("1")
            self._stopping.wait((1 - self._duty) * self._period)
            self._write("0")

    def _write(self, text: str) -> None:
        try:
            self._context.files.write(self._path, text)
            self.error = ""
        except HandError as error:  # the unit has stopped, and may start again
            self.error = str(error)


def _prepare(context: VerbContext, arguments: Arguments) -> Operation:
    name, unit = get_permitted_unit(context, arguments, "freeze")
    duty = arguments.take_number("duty", MIN_DUTY, 1.0)
    period = arguments.take_number("period", MIN_PERIOD, MAX_PERIOD)
    lease_name, ttl = arguments.take_lease()
    arguments.reject_unknown()
    path = resolve_unit_file(context, unit, "cgroup.freeze")
    if (stopped_seconds := (1 - duty) * period) > unit.longest_stop:
        raise HandRefusedError(
            f"{name} would be frozen for {stopped_seconds:.2f} s at a time, and longest_stop in hand.toml is "
            f"{unit.longest_stop:g} s: its liveness probe might kill it; use a shorter period"
        )
    requested = Lease(lease_name, "freeze", path, _FULL_DUTY, f"{duty:g} {period:g}", 0.0)
    return lambda: _run(context, requested, ttl)


def _run(context: VerbContext, requested: Lease, ttl: float) -> JsonObject:
    with context.leases.lock:
        previous = context.leases.find_by_resource(requested.resource)
        if previous is None and context.files.read(requested.resource) != "0":
            raise HandRefusedError(f"{requested.resource} is frozen by somebody else")
        lease = acquire_lease(
            context, requested, ttl, None, lambda: previous.ours if previous is not None else _FULL_DUTY
        )
        _resume(context, lease)
    prior = 1.0 if previous is None else float(previous.ours.split()[0])
    return {"prior": prior, "now": float(lease.ours.split()[0])}


def _resume(context: VerbContext, lease: Lease) -> None:
    duty, period = map(float, lease.ours.split())
    cycle = context.cycles.get(lease.resource)
    if cycle is None:
        cycle = context.cycles[lease.resource] = DutyCycle(context, lease.resource)
    cycle.configure(duty, period)


def _restore(context: VerbContext, lease: Lease) -> None:
    cycle = context.cycles.pop(lease.resource, None) or DutyCycle(context, lease.resource)
    cycle.close()


def _check_lease(context: VerbContext, lease: Lease) -> str:
    cycle = context.cycles.get(lease.resource)
    return "the freeze cycle is not running" if cycle is None else cycle.error


def _check_support(context: VerbContext) -> str:
    is_named = any(unit.freeze for unit in context.config.units.values())
    return "" if is_named else "hand.toml names no unit that may be frozen"


VERB = Verb("freeze", RateLimit(600, 600.0), _prepare, _check_support, _restore, _resume, _check_lease, "duty ")
