"""
freeze: lets a unit run for a share of each period and stands it still for the rest, for engines that cannot pace.

By the freezer of its cgroup, which no process of it can notice or refuse.
https://docs.kernel.org/admin-guide/cgroup-v2.html (cgroup.freeze)
"""

from __future__ import annotations

import threading

from hand.arguments import Arguments
from hand.errors import HandError, RefusedError
from hand.leases import Lease
from hand.limits import Limit
from hand.verb import Bench, Ready, Result, Verb, hold
from hand.verbs._units import unit_file, unit_for

LOWEST = 0.1
SHORTEST, LONGEST = 0.05, 10.0  # seconds of a period
_FULL = "1"


class Cycle:
    """
    The thread that freezes and thaws; when it ends, the unit is thawed.

    It outlives the cgroup, which goes when the unit stops and is there again when the unit restarts.
    """

    def __init__(self, bench: Bench, path: str) -> None:
        self._bench = bench
        self._path = path
        self._ended = threading.Event()
        self.fault = ""
        """Why the last write failed."""
        self._duty, self._period = 1.0, 1.0
        self._thread = threading.Thread(target=self._run, name=f"freeze {path}", daemon=True)

    def set(self, duty: float, period: float) -> None:
        """From the next period on; the first call starts it."""
        self._duty, self._period = duty, period
        if not self._thread.is_alive():
            self._thread.start()

    def end(self) -> None:
        """Returns when the unit is thawed for good; HandError where the kernel refuses."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._bench.files.exists(self._path):  # else the unit has been stopped: there is nothing to thaw
            self._bench.files.write(self._path, "0")

    def _run(self) -> None:
        while not self._ended.wait(self._duty * self._period):
            self._write("1")
            self._ended.wait((1 - self._duty) * self._period)
            self._write("0")

    def _write(self, text: str) -> None:
        try:
            self._bench.files.write(self._path, text)
            self.fault = ""
        except HandError as error:  # the unit has been stopped, and its cgroup with it; it may be started again
            self.fault = str(error)


def _prepare(bench: Bench, arguments: Arguments) -> Ready:
    name, unit = unit_for(bench, arguments, "freeze")
    duty = arguments.number("duty", LOWEST, 1.0)
    period = arguments.number("period", SHORTEST, LONGEST)
    lease, ttl = arguments.lease()
    arguments.done()
    path = unit_file(bench, unit, "cgroup.freeze")
    if (stop := (1 - duty) * period) > unit.longest_stop:
        raise RefusedError(
            f"{name} would stand still for {stop:.2f} s at a time, and longest_stop in hand.toml is "
            f"{unit.longest_stop:g} s: its liveness probe might kill it; use a shorter period"
        )
    held = Lease(lease, "freeze", path, _FULL, f"{duty:g} {period:g}", 0.0)
    return lambda: _run(bench, held, ttl)


def _run(bench: Bench, wanted: Lease, ttl: float) -> Result:
    with bench.leases.lock:
        before = bench.leases.on(wanted.resource)
        if before is None and bench.files.read(wanted.resource) != "0":
            raise RefusedError(f"{wanted.resource} is frozen by somebody else")
        lease = hold(bench, wanted, ttl, None, lambda: before.ours if before is not None else _FULL)
        _resume(bench, lease)
    prior = 1.0 if before is None else float(before.ours.split()[0])
    return {"prior": prior, "now": float(lease.ours.split()[0])}


def _resume(bench: Bench, lease: Lease) -> None:
    duty, period = map(float, lease.ours.split())
    cycle = bench.cycles.get(lease.resource)
    if cycle is None:
        cycle = bench.cycles[lease.resource] = Cycle(bench, lease.resource)
    cycle.set(duty, period)


def _put_back(bench: Bench, lease: Lease) -> None:
    cycle = bench.cycles.pop(lease.resource, None) or Cycle(bench, lease.resource)
    cycle.end()


def _lapsed(bench: Bench, lease: Lease) -> str:
    cycle = bench.cycles.get(lease.resource)
    return "nobody freezes and thaws it" if cycle is None else cycle.fault


def _missing(bench: Bench) -> str:
    named = any(unit.freeze for unit in bench.config.units.values())
    return "" if named else "hand.toml names no unit that may be frozen"


VERB = Verb("freeze", Limit(600, 600.0), _prepare, _missing, _put_back, _resume, _lapsed)
