"""
Passwords against bcrypt hashes: in a thread of its own, one at a time, and what was found out is remembered.

bcrypt is slow on purpose, 50 ms and more, so a scrape each second must not pay it each time and nobody may fill the
event loop with it. Remembered is a keyed hash, never the password; few may wait, and then it is 429 for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import queue
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping

MOST_WAITING = 16
MOST_REMEMBERED = 128
LONGEST = 72  # bytes: bcrypt looks at no more of a password

# Somebody's hash for users that are not there, so that their names cannot be told by the time an answer takes.
NOBODY = "$2b$10$ICVLUqomj3uJquc4bbSBG.Yddzz4k1V51srb.yjz9yYFCPEbKpS3m"


class BusyError(Exception):
    """So many passwords wait to be looked at that this one is not."""


class Passwords:
    """Whether a user has a password; its thread is a daemon, and starts with the first password."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        # Apart, so that guesses cannot push out what is known to be right.
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[bool]] = {}
        self._jobs: queue.SimpleQueue[tuple[bytes, bytes, bytes]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def right(self, users: Mapping[str, str], name: str, password: str) -> bool:
        """Whether it is that user's password. Raises BusyError."""
        hashed = users.get(name) or next(iter(users.values()), NOBODY)
        told = password.encode("utf-8", "surrogateescape")
        mark = self._mark(name, told, hashed)
        if mark in self._right:
            self._right.move_to_end(mark)
            return name in users
        if mark in self._wrong:
            return False
        matches = await asyncio.shield(self._ask(mark, told, hashed.encode()))
        return matches and name in users

    def _mark(self, *parts: str | bytes) -> bytes:
        mark = hashlib.blake2b(key=self._key, digest_size=32)
        for part in parts:
            whole = part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")
            mark.update(len(whole).to_bytes(8, "big") + whole)
        return mark.digest()

    def _ask(self, mark: bytes, password: bytes, hashed: bytes) -> asyncio.Future[bool]:
        if mark in self._asked:
            return self._asked[mark]
        if len(self._asked) >= MOST_WAITING:
            raise BusyError
        self._loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="passwords", daemon=True)
            self._thread.start()
        self._asked[mark] = self._loop.create_future()
        self._jobs.put((mark, password, hashed))
        return self._asked[mark]

    def _work(self) -> None:
        import bcrypt

        while True:
            mark, password, hashed = self._jobs.get()
            try:
                matches = bcrypt.checkpw(password[:LONGEST], hashed)
            except ValueError:  # bytes that no password has
                matches = False
            assert self._loop is not None
            with contextlib.suppress(RuntimeError):  # the event loop has closed: the agent is ending
                self._loop.call_soon_threadsafe(self._found, mark, matches)

    def _found(self, mark: bytes, matches: bool) -> None:
        remembered = self._right if matches else self._wrong
        remembered[mark] = None
        while len(remembered) > MOST_REMEMBERED:
            remembered.popitem(last=False)
        self._asked.pop(mark).set_result(matches)
