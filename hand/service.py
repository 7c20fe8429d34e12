"""Carries out requests: finds the verb, checks limits, runs it, and restores expired leases."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from hand import VERSION
from hand.arguments import Arguments
from hand.config import AllowedUnit
from hand.errors import AmbiguousOutcomeError, HandError, InvalidRequestError, UnavailableError, ValueChangedError
from hand.intake import Intake
from hand.leases import MAX_LEASES, Lease
from hand.limits import RateLimiter
from hand.verb import JsonObject, Verb, VerbContext
from hand.verbs import VERBS

Log = Callable[[str], None]
_RETRY_SECONDS = 5.0  # seconds until a failed restore is retried
IDLE_TIMEOUT = 5.0  # seconds that the end waits for requests under way; systemd kills the hand after 15
LOCK_TIMEOUT = 3.0  # seconds more that it waits for one that holds the leases
RESTORE_TRIES, RESTORE_PAUSE = 5, 0.3  # how often the end tries to restore a lease, and seconds between


class Service:
    """Carries out requests; writes a line to `log` for each."""

    def __init__(self, context: VerbContext, log: Log, verbs: Mapping[str, Verb] = VERBS) -> None:
        self._context = context
        self._log = log
        self._verbs = verbs
        self._limits = RateLimiter()
        self._intake = Intake()
        self._perform_lock = threading.Lock()
        self._leases_changed = threading.Event()
        self._stopping = False
        self._restore_errors: dict[str, str] = {}

    def answer(self, line: bytes, caller: str) -> JsonObject:
        """Returns the response to a request line; never raises."""
        try:
            verb, arguments = _parse_request(line)
            with self._intake.admit():
                return {"ok": True, "result": self._perform(verb, arguments, caller)}
        except HandError as error:
            return self._refuse(caller, error)
        except Exception as error:  # a bug of the hand must not end the connection
            return self._refuse(
                caller, AmbiguousOutcomeError(f"internal error of the hand: {type(error).__name__}: {error}")
            )

    def _refuse(self, caller: str, error: HandError) -> JsonObject:
        self._log(f"refused to {caller}: {error}")
        return {"ok": False, "code": error.code, "error": str(error)}

    def _perform(self, name: str, raw_arguments: Mapping[str, Any], caller: str) -> JsonObject:
        arguments = Arguments(raw_arguments)
        match name:
            case "hello":
                arguments.reject_unknown()
                return self._hello()
            case "renew":
                return self._renew(arguments)
            case "release":
                return self._release(arguments)
        verb = self._verbs.get(name)
        if verb is None:
            raise UnavailableError(
                f"there is no verb {ascii(name)[:40]}; the verbs are: {', '.join(sorted(self._verbs))}"
            )
        if reason := verb.check_support(self._context):
            raise UnavailableError(f"{name} is not available here: {reason}")
        operation = verb.prepare(self._context, arguments)
        self._limits.count_use(name, verb.limit, time.monotonic())
        with self._perform_lock:
            self._intake.check_open()
            result = operation()
        self._leases_changed.set()
        self._log(f"{name} for {caller}: {json.dumps(dict(raw_arguments))} returned {json.dumps(result)}")
        return result

    def _hello(self) -> JsonObject:
        leases = self._context.leases
        entries = [
            {
                "lease": lease.name,
                "verb": lease.verb,
                "resource": lease.resource,
                "prior": lease.prior,
                "ours": lease.ours,
                "left": leases.get_remaining(lease),
            }
            for lease in leases.list_all()
        ]
        reasons = {name: verb.check_support(self._context) for name, verb in self._verbs.items()}
        return {
            "version": VERSION,
            "verbs": sorted(name for name, reason in reasons.items() if not reason),
            "missing": {name: reason for name, reason in reasons.items() if reason},
            "units": {name: _describe_permissions(unit) for name, unit in self._context.config.units.items()},
            "commands": {name: sorted(command.environment) for name, command in self._context.config.commands.items()},
            "leases": entries,
        }

    def _renew(self, arguments: Arguments) -> JsonObject:
        names = arguments.take_lease_names("leases", MAX_LEASES)
        ttl = arguments.take_ttl()
        arguments.reject_unknown()
        lapsed = self._find_lapsed(names)
        renewed, unknown = self._context.leases.renew([name for name in names if name not in lapsed], ttl)
        self._leases_changed.set()
        return {"renewed": renewed, "unknown": unknown, "lapsed": lapsed}

    def _find_lapsed(self, names: list[str]) -> dict[str, str]:
        """Returns the leases whose resource is not held, with reasons; they are not renewed and so expire."""
        reasons = {}
        for lease in filter(None, map(self._context.leases.get, names)):
            verb = self._verbs.get(lease.verb)
            if verb is not None and verb.check_lease is not None and (reason := verb.check_lease(self._context, lease)):
                self._log(f"{lease.name} is not renewed: {reason}")
                reasons[lease.name] = reason
        return reasons

    def _release(self, arguments: Arguments) -> JsonObject:
        name = arguments.take_lease_name()
        arguments.reject_unknown()
        lease = self._context.leases.get(name)
        if lease is None:
            raise UnavailableError(f"there is no lease {name}")
        self._restore(lease)
        return {"restored": True}

    def _restore(self, lease: Lease) -> None:
        """Restores the resource and removes the lease; keeps the lease for a retry when the kernel refuses."""
        verb = self._verbs.get(lease.verb)
        if verb is None or verb.restore is None:
            raise HandError(f"{lease.resource} is held by {lease.verb}, a verb that this hand does not have")
        with self._context.leases.lock:
            try:
                verb.restore(self._context, lease)
            except ValueChangedError:
                self._context.leases.remove(lease.name)
                raise
            self._context.leases.remove(lease.name)
        self._log(f"{lease.resource}: restored to {verb.value_name}{lease.prior}")

    def resume_leases(self) -> None:
        """Resumes the leases of an earlier hand."""
        for lease in self._context.leases.list_all():
            verb = self._verbs.get(lease.verb)
            if verb is not None and verb.resume is not None and self._context.leases.get_remaining(lease) > 0:
                verb.resume(self._context, lease)
            value = lease.ours if verb is None else f"{verb.value_name}{lease.ours}"
            self._log(f"{lease.resource}: still held at {value} for {self._context.leases.get_remaining(lease):.0f} s")

    def watch_leases(self) -> None:
        """Restores expired leases until `stop_watching`; runs in its own thread."""
        while not self._stopping:
            next_expiry = self._context.leases.get_next_expiry()
            self._leases_changed.wait(
                next_expiry
                if next_expiry is None or next_expiry > 0
                else _RETRY_SECONDS
                if self._restore_errors
                else 0.0
            )
            self._leases_changed.clear()
            self.restore_expired()

    def restore_expired(self) -> None:
        """Restores each expired lease."""
        leases = self._context.leases
        for lease in leases.list_expired():
            with leases.lock:  # another thread may have renewed the lease
                if lease in leases.list_expired():
                    self._try_restore(lease)

    def end(self) -> bool:
        """
        Lets no request begin, ends those under way, and then restores every lease; returns False when one is left.

        In another order a request would set again what the end has just restored.
        """
        self._intake.close()
        self.stop_watching()
        self._context.files.children.end()
        if not self._intake.wait_until_idle(IDLE_TIMEOUT):
            self._log(
                f"a request did not end within {IDLE_TIMEOUT:g} s; the leases are restored without waiting for it"
            )
        return self._restore_all()

    def _restore_all(self) -> bool:
        """Restores every lease, and tries again where the kernel refuses; returns False when a lease is left."""
        leases = self._context.leases
        if not leases.lock.acquire(timeout=LOCK_TIMEOUT):
            self._log("cannot restore the leases: the kernel does not return from a write; the next hand restores them")
            return False
        try:
            for attempt in range(RESTORE_TRIES):
                if attempt:
                    time.sleep(RESTORE_PAUSE)
                self._try_restore_all()
                if not leases.list_all():
                    return True
            resources = ", ".join(lease.resource for lease in leases.list_all())
            self._log(f"left changed, for the next hand to restore: {resources}")
            return False
        finally:
            leases.lock.release()

    def _try_restore_all(self) -> None:
        try:
            with self._context.leases.deferred_writes():  # one write for all, not one for each
                for lease in self._context.leases.list_all():
                    self._try_restore(lease)
        except HandError as error:  # as on a full disk; the next hand finds nothing to restore
            self._log(f"cannot save that the leases are restored: {error}")

    def _try_restore(self, lease: Lease) -> None:
        try:
            self._restore(lease)
            self._restore_errors.pop(lease.name, None)
        except ValueChangedError as error:
            self._restore_errors.pop(lease.name, None)
            self._log(str(error))
        except Exception as error:  # the other leases must still be restored
            if self._restore_errors.get(lease.name) != str(error):
                self._log(f"cannot restore {lease.resource}, retrying every {_RETRY_SECONDS:g} s: {error}")
            self._restore_errors[lease.name] = str(error)

    def stop_watching(self) -> None:
        """Ends `watch_leases`."""
        self._stopping = True
        self._leases_changed.set()


def _describe_permissions(unit: AllowedUnit) -> JsonObject:
    """Returns the unit's permissions, with which the agent can refuse a plan before it sends a request."""
    permissions = {"freeze": unit.freeze, "migrate": unit.migrate, "reclaim": unit.reclaim}
    return {
        "cgroup": unit.cgroup,
        "may": [name for name, allowed in permissions.items() if allowed],
        "longest_stop": unit.longest_stop,
    }


def _parse_request(line: bytes) -> tuple[str, Mapping[str, Any]]:
    try:
        request = json.loads(line, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"not a line of JSON: {error}") from None
    if not isinstance(request, dict) or not set(request) <= {"verb", "arguments"}:
        raise InvalidRequestError('expected {"verb": "…", "arguments": {…}}')
    verb, arguments = request.get("verb"), request.get("arguments", {})
    if not isinstance(verb, str) or not isinstance(arguments, dict):
        raise InvalidRequestError('expected {"verb": "…", "arguments": {…}}')
    return verb, arguments


def _reject_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")
