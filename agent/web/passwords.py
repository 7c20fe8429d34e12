"""
Checks passwords against bcrypt hashes in one thread, one at a time, and caches the results.

bcrypt is slow on purpose (50 ms and more). The cache spares a scrape each second that cost, and the thread keeps it off
the event loop. The cache holds keyed hashes, never passwords, so it is empty after a restart: then strangers who guess
must not keep out who knows the password. So checks wait in one queue for each address and user, and the queues take
turns. Beyond MAX_WAITING the longest queue loses its oldest check, which gets a 429.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from agent.runtime.threads import make_loop_callback
from agent.web.turns import Turns, group_address

MAX_WAITING = 256  # as many as there may be connections
MAX_REMEMBERED = 128
CLOSE_TIMEOUT = 5.0  # seconds for the check that runs
MAX_PASSWORD_BYTES = 72  # bcrypt ignores the rest of a password

# Checked for unknown users, so that the time of an answer does not reveal which names exist.
DUMMY_HASH = "$2b$10$ICVLUqomj3uJquc4bbSBG.Yddzz4k1V51srb.yjz9yYFCPEbKpS3m"


class BusyError(Exception):
    """Too many password checks wait already."""


class _Check(NamedTuple):
    """A password to be checked: `place` is its key among those that wait, `digest` in the caches."""

    place: tuple[str, str, bytes]
    digest: bytes
    password: bytes
    password_hash: bytes


class Passwords:
    """Verifies passwords. Its daemon thread starts with the first check."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        # Two caches, so that guesses cannot push out accepted passwords.
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._rejected: OrderedDict[bytes, None] = OrderedDict()
        self._pending: dict[tuple[str, str, bytes], asyncio.Future[bool | None]] = {}
        self._turns: Turns[_Check] = Turns()
        self._thread: threading.Thread | None = None

    async def verify(self, users: Mapping[str, str], name: str, password: str, address: str = "") -> bool:
        """Returns True for the user's password, which came from `address`. Raises BusyError."""
        password_hash = users.get(name) or next(iter(users.values()), DUMMY_HASH)
        password_bytes = password.encode("utf-8", "surrogateescape")
        digest = self._compute_digest(name, password_bytes, password_hash)
        if digest in self._accepted:
            self._accepted.move_to_end(digest)
            return name in users
        if digest in self._rejected:
            return False
        # All unknown names share a queue: who makes names up gets no more turns by that.
        place = (group_address(address), name if name in users else "", digest)
        check = _Check(place, digest, password_bytes, password_hash.encode())
        matches = await asyncio.shield(self._submit_check(check))
        if matches is None:
            raise BusyError
        return matches and name in users

    def close(self) -> None:
        """Ends the thread after its present check: an interpreter that ends under bcrypt's native code aborts."""
        self._turns.close()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)

    def _compute_digest(self, *parts: str | bytes) -> bytes:
        hasher = hashlib.blake2b(key=self._key, digest_size=32)
        for part in parts:
            encoded = part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")
            hasher.update(len(encoded).to_bytes(8, "big") + encoded)
        return hasher.digest()

    def _submit_check(self, check: _Check) -> asyncio.Future[bool | None]:
        """Returns the future result of a check; None where it is not made because too many wait."""
        if check.place in self._pending:
            return self._pending[check.place]
        if self._thread is None:
            settle = make_loop_callback(self._settle)
            self._thread = threading.Thread(target=self._run_checks, args=(settle,), name="passwords", daemon=True)
            self._thread.start()
        future = self._pending[check.place] = asyncio.get_running_loop().create_future()
        shed = self._turns.add(check.place[:2], check, MAX_WAITING)
        if shed is not None:
            self._pending.pop(shed.place).set_result(None)
        return future

    def _run_checks(self, settle: Callable[[_Check, bool], None]) -> None:
        import bcrypt

        while (check := self._turns.take()) is not None:
            try:
                matches = bcrypt.checkpw(check.password[:MAX_PASSWORD_BYTES], check.password_hash)
            except ValueError:  # bcrypt refuses passwords with a zero byte
                matches = False
            settle(check, matches)

    def _settle(self, check: _Check, matches: bool) -> None:
        cache = self._accepted if matches else self._rejected
        cache[check.digest] = None
        while len(cache) > MAX_REMEMBERED:
            cache.popitem(last=False)
        self._pending.pop(check.place).set_result(matches)
