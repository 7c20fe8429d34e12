"""
Checks passwords against bcrypt hashes in one thread, one at a time, and caches the results.

bcrypt is slow on purpose (50 ms and more). The cache spares a scrape each second that cost, and the thread keeps it off
the event loop. The cache holds keyed hashes, never passwords. When too many checks wait, the next gets a 429.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

from agent.runtime.threads import make_loop_callback

MAX_WAITING = 16
MAX_REMEMBERED = 128
MAX_PASSWORD_BYTES = 72  # bcrypt ignores the rest of a password

# Checked for unknown users, so that the time of an answer does not reveal which names exist.
DUMMY_HASH = "$2b$10$ICVLUqomj3uJquc4bbSBG.Yddzz4k1V51srb.yjz9yYFCPEbKpS3m"


class BusyError(Exception):
    """Too many password checks wait already."""


class Passwords:
    """Verifies passwords. Its daemon thread starts with the first check."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        # Two caches, so that guesses cannot push out accepted passwords.
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._rejected: OrderedDict[bytes, None] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[bool]] = {}
        self._jobs: queue.SimpleQueue[tuple[bytes, bytes, bytes]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def verify(self, users: Mapping[str, str], name: str, password: str) -> bool:
        """Returns True for the user's password. Raises BusyError."""
        password_hash = users.get(name) or next(iter(users.values()), DUMMY_HASH)
        password_bytes = password.encode("utf-8", "surrogateescape")
        digest = self._compute_digest(name, password_bytes, password_hash)
        if digest in self._accepted:
            self._accepted.move_to_end(digest)
            return name in users
        if digest in self._rejected:
            return False
        matches = await asyncio.shield(self._submit_check(digest, password_bytes, password_hash.encode()))
        return matches and name in users

    def _compute_digest(self, *parts: str | bytes) -> bytes:
        hasher = hashlib.blake2b(key=self._key, digest_size=32)
        for part in parts:
            encoded = part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")
            hasher.update(len(encoded).to_bytes(8, "big") + encoded)
        return hasher.digest()

    def _submit_check(self, digest: bytes, password: bytes, password_hash: bytes) -> asyncio.Future[bool]:
        if digest in self._pending:
            return self._pending[digest]
        if len(self._pending) >= MAX_WAITING:
            raise BusyError
        if self._thread is None:
            settle = make_loop_callback(self._settle)
            self._thread = threading.Thread(target=self._run_checks, args=(settle,), name="passwords", daemon=True)
            self._thread.start()
        self._pending[digest] = asyncio.get_running_loop().create_future()
        self._jobs.put((digest, password, password_hash))
        return self._pending[digest]

    def _run_checks(self, settle: Callable[[bytes, bool], None]) -> None:
        import bcrypt

        while True:
            digest, password, password_hash = self._jobs.get()
            try:
                matches = bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], password_hash)
            except ValueError:  # bcrypt refuses passwords with a zero byte
                matches = False
            settle(digest, matches)

    def _settle(self, digest: bytes, matches: bool) -> None:
        cache = self._accepted if matches else self._rejected
        cache[digest] = None
        while len(cache) > MAX_REMEMBERED:
            cache.popitem(last=False)
        self._pending.pop(digest).set_result(matches)
