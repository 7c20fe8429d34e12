"""One hand at work: which verb a request means, whether it may be done, and leases that end by themselves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from hand import VERSION
from hand.arguments import Arguments
from hand.config import Unit
from hand.errors import AmbiguousError, ChangedError, HandError, InvalidError, UnknownError
from hand.leases import MOST, Lease
from hand.limits import Limits
from hand.verb import Bench, Result, Verb
from hand.verbs import VERBS

Say = Callable[[str], None]
_AGAIN = 5.0  # seconds until a lease that could not be put back is tried again


class Service:
    """Carries out requests; `say` tells each act in a line."""

    def __init__(self, bench: Bench, say: Say, verbs: Mapping[str, Verb] = VERBS) -> None:
        self._bench = bench
        self._say = say
        self._verbs = verbs
        self._limits = Limits()
        self._one_at_a_time = threading.Lock()
        self._changed = threading.Event()
        self._stopping = False
        self._faults: dict[str, str] = {}

    def answer(self, line: bytes, caller: str) -> Result:
        """What a request line gives, faults included; raises nothing of a request's."""
        try:
            verb, arguments = _request(line)
            return {"ok": True, "result": self._perform(verb, arguments, caller)}
        except HandError as error:
            return self._refusal(caller, error)
        except Exception as error:  # a fault of ours: the caller hears of it, and the next request is answered
            return self._refusal(caller, AmbiguousError(f"a fault of the hand: {type(error).__name__}: {error}"))

    def _refusal(self, caller: str, error: HandError) -> Result:
        self._say(f"refused to {caller}: {error}")
        return {"ok": False, "code": error.code, "error": str(error)}

    def _perform(self, name: str, given: Mapping[str, Any], caller: str) -> Result:
        arguments = Arguments(given)
        match name:
            case "hello":
                arguments.done()
                return self._hello()
            case "renew":
                return self._renew(arguments)
            case "release":
                return self._release(arguments)
        verb = self._verbs.get(name)
        if verb is None:
            raise UnknownError(f"there is no verb {ascii(name)[:40]}; there are: {', '.join(sorted(self._verbs))}")
        if why := verb.missing(self._bench):
            raise UnknownError(f"{name} is of no use here: {why}")
        ready = verb.prepare(self._bench, arguments)
        self._limits.take(name, verb.limit, time.monotonic())
        with self._one_at_a_time:
            result = ready()
        self._changed.set()
        self._say(f"{name} for {caller}: {json.dumps(dict(given))} gave {json.dumps(result)}")
        return result

    def _hello(self) -> Result:
        leases = self._bench.leases
        held = [
            {
                "lease": lease.name,
                "verb": lease.verb,
                "resource": lease.resource,
                "prior": lease.prior,
                "ours": lease.ours,
                "left": leases.left(lease),
            }
            for lease in leases.all()
        ]
        missing = {name: verb.missing(self._bench) for name, verb in self._verbs.items()}
        return {
            "version": VERSION,
            "verbs": sorted(name for name, why in missing.items() if not why),
            "missing": {name: why for name, why in missing.items() if why},
            "units": {name: _allowed(unit) for name, unit in self._bench.config.units.items()},
            "commands": {name: sorted(command.environment) for name, command in self._bench.config.commands.items()},
            "leases": held,
        }

    def _renew(self, arguments: Arguments) -> Result:
        names = arguments.leases("leases", MOST)
        ttl = arguments.ttl()
        arguments.done()
        lapsed = self._lapsed(names)
        renewed, unknown = self._bench.leases.renew([name for name in names if name not in lapsed], ttl)
        self._changed.set()
        return {"renewed": renewed, "unknown": unknown, "lapsed": lapsed}

    def _lapsed(self, names: list[str]) -> dict[str, str]:
        """Those that hold nothing just now, with the reason: they are not renewed, and so end by themselves."""
        found = {}
        for lease in filter(None, map(self._bench.leases.get, names)):
            verb = self._verbs.get(lease.verb)
            if verb is not None and verb.lapsed is not None and (why := verb.lapsed(self._bench, lease)):
                self._say(f"{lease.name} is not renewed: {why}")
                found[lease.name] = why
        return found

    def _release(self, arguments: Arguments) -> Result:
        name = arguments.lease_name()
        arguments.done()
        lease = self._bench.leases.get(name)
        if lease is None:
            raise UnknownError(f"no lease {name} is held")
        self._put_back(lease)
        return {"restored": True}

    def _put_back(self, lease: Lease) -> None:
        """The lease ends in any case, unless the kernel refused: then it is tried again."""
        verb = self._verbs.get(lease.verb)
        if verb is None or verb.undo is None:
            raise HandError(f"{lease.resource} is held by {lease.verb}, which this hand does not know")
        with self._bench.leases.lock:
            try:
                verb.undo(self._bench, lease)
            except ChangedError:
                self._bench.leases.drop(lease.name)
                raise
            self._bench.leases.drop(lease.name)
        self._say(f"{lease.resource}: put back to {lease.prior}")

    def take_up(self) -> None:
        """Goes on with what an earlier hand held."""
        for lease in self._bench.leases.all():
            verb = self._verbs.get(lease.verb)
            if verb is not None and verb.resume is not None and self._bench.leases.left(lease) > 0:
                verb.resume(self._bench, lease)
            self._say(f"{lease.resource}: still held at {lease.ours} for {self._bench.leases.left(lease):.0f} s")

    def watch(self) -> None:
        """Puts back what has ended, until `stop`; runs in a thread of its own."""
        while not self._stopping:
            next_end = self._bench.leases.next_end()
            self._changed.wait(next_end if next_end is None or next_end > 0 else _AGAIN if self._faults else 0.0)
            self._changed.clear()
            self.put_back_ended()

    def put_back_ended(self) -> None:
        """Each lease whose time is up."""
        leases = self._bench.leases
        for lease in leases.ended():
            with leases.lock:  # it may have been renewed just now
                if lease in leases.ended():
                    self._try_to_put_back(lease)

    def put_back_all(self) -> None:
        """Everything that is held, because this hand ends."""
        for lease in self._bench.leases.all():
            self._try_to_put_back(lease)

    def _try_to_put_back(self, lease: Lease) -> None:
        try:
            self._put_back(lease)
            self._faults.pop(lease.name, None)
        except ChangedError as error:
            self._faults.pop(lease.name, None)
            self._say(str(error))
        except Exception as error:  # whatever it is, the other leases must still end
            if self._faults.get(lease.name) != str(error):
                self._say(f"cannot put back, and tries again each {_AGAIN:g} s: {error}")
            self._faults[lease.name] = str(error)

    def stop(self) -> None:
        """Ends `watch`."""
        self._stopping = True
        self._changed.set()


def _allowed(unit: Unit) -> Result:
    """What root lets be done with a unit, so that a plan can be refused before anything is asked for."""
    may = {"freeze": unit.freeze, "migrate": unit.migrate, "reclaim": unit.reclaim}
    return {
        "cgroup": unit.cgroup,
        "may": [name for name, allowed in may.items() if allowed],
        "longest_stop": unit.longest_stop,
    }


def _request(line: bytes) -> tuple[str, Mapping[str, Any]]:
    try:
        request = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"not a line of JSON: {error}") from None
    if not isinstance(request, dict) or not set(request) <= {"verb", "arguments"}:
        raise InvalidError('expected {"verb": "…", "arguments": {…}}')
    verb, arguments = request.get("verb"), request.get("arguments", {})
    if not isinstance(verb, str) or not isinstance(arguments, dict):
        raise InvalidError('expected {"verb": "…", "arguments": {…}}')
    return verb, arguments


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")
