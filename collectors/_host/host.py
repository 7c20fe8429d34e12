"""
Gives collectors read access to a machine's files; no other module opens kernel files.

This module alone handles files that are absent, empty, unreadable, not text or too large. A collector receives a value
or None; the reason is noted and counted.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from collectors._host.cache import Cache
from collectors._host.files import MAX_BYTES, PAGE, decode_text, means_absent, read_all
from collectors._host.http_answers import HttpAnswer, find_answer, request_http, shorten_url
from collectors._host.names import is_integer, is_text, natural
from collectors._host.pending_reads import PendingRead, PendingReads
from collectors._host.sample import Note

_T = TypeVar("_T")


class Host:
    """Read access to the files below a root folder, which can stand for a machine; each collector has its own Host."""

    def __init__(self, root: str | Path = "/", cache: str | Path | None = None) -> None:
        """Opens the machine below `root`; collectors cache texts for later processes in the folder `cache`."""
        self.root = os.path.abspath(root)
        self.live = self.root == "/"
        self.cache = Cache(cache)
        self.shelf = self.cache  # its name in the first version of the contract: collectors of third parties use it
        self._prefix = self.root.rstrip("/") + "/"
        self._notes: list[Note] = []
        self._states: dict[type, Any] = {}
        self._spent_seconds = 0.0
        self._next_pass_seconds: float | None = None
        self.reads = PendingReads()

    def path(self, relative: str) -> str:
        """Returns the absolute path of one of the machine's files."""
        return self._prefix + relative.lstrip("/")

    def exists(self, relative: str) -> bool:
        """Returns True where the file or folder exists; leaves no note."""
        return os.path.exists(self.path(relative))

    def read(self, relative: str, *, optional: bool = False, largest: int = MAX_BYTES) -> str | None:
        """
        Returns the file's text without surrounding white space, or None with a note.

        An optional file may be absent or empty without a note: many kernels lack it, or its process may have ended. A
        file of more than `largest` bytes is not read to its end.
        """
        raw = self.read_bytes(relative, optional=optional, largest=largest)
        if raw is None:
            return None
        text, fault = decode_text(raw)
        if fault:
            self.note(relative, fault if text else "not text")
        elif not text and not optional:
            self.note(relative, "empty")
        return text or None

    def read_strings(self, relative: str) -> list[str]:
        """Returns the strings of a file that ends each with a NUL, such as environ; none where it is absent."""
        raw = (self.read_bytes(relative, optional=True) or b"").rstrip(b"\0 ")
        strings = raw.decode("utf-8", "replace").split("\0") if raw else []
        if damaged := sum("\ufffd" in text for text in strings):
            self.note(relative, f"not text in {damaged} of {len(strings)} strings")
        return strings

    def read_bytes(self, relative: str, *, optional: bool = False, largest: int = MAX_BYTES) -> bytes | None:
        """Returns the file's bytes, or None with a note; an optional file may be absent without a note."""
        reason = self.reads.explain_skip(relative)
        if reason is not None:
            return self.note(relative, reason)
        whole_below = PAGE if relative.startswith("sys/") else 0
        try:
            with PendingRead(self.reads, relative) as read:
                return read_all(self._prefix + relative.lstrip("/"), whole_below, largest, read.note_progress)
        except OSError as error:
            return None if optional and means_absent(error) else self.note_error(relative, error)

    def read_int(self, relative: str, *, optional: bool = False) -> int | None:
        """Returns the whole number that is the file's only content, or None with a note."""
        text = self.read(relative, optional=optional)
        if text is None:
            return None
        return self.integer(text, relative)

    def integer(self, text: str, relative: str) -> int | None:
        """Returns `text` as a whole number, or None with a note; `1_000` and `<unknown>` are not numbers."""
        if not is_integer(text):
            return self.note(relative, f"expected a whole number, found {text[:40]!r}")
        return int(text)

    def lines(self, relative: str, *, optional: bool = False) -> list[str]:
        """Returns the file's lines; an empty list, with a note, where the file cannot be read."""
        text = self.read(relative, optional=optional)
        return [] if text is None else text.splitlines()

    def names(self, relative: str) -> list[str]:
        """Returns the entries of a folder in natural order (node2 before node10); an empty list where it is absent."""
        try:
            return sorted(filter(is_text, os.listdir(self.path(relative))), key=natural)
        except OSError as error:
            if not means_absent(error):
                self.note_error(relative, error)
            return []

    def glob(self, pattern: str) -> list[str]:
        """Returns the relative paths that match, in natural order; each segment may have shell wildcards."""
        paths = [""]
        for segment in pattern.strip("/").split("/"):
            paths = [path for parent in paths for path in self._matches(parent, segment)]
        return paths

    def _matches(self, parent: str, segment: str) -> Iterable[str]:
        join = f"{parent}/" if parent else ""
        if not any(wild in segment for wild in "*?["):
            return [join + segment] if self.exists(join + segment) else []
        return [join + name for name in self.names(parent) if fnmatch.fnmatchcase(name, segment)]

    def link(self, relative: str) -> str | None:
        """Returns the last name in the target of a symbolic link, such as 3-0050; None where there is no such link."""
        try:
            name = os.path.basename(os.readlink(self.path(relative)).rstrip("/"))
            # A name that is not UTF-8 could be neither a label nor part of a log line.
            return os.fsencode(name).decode("utf-8", "replace") or None
        except OSError:
            return None  # an unknown name becomes a missing label

    def get(self, url: str, *, timeout: float = 0.4) -> str | None:
        """Returns the body of an HTTP GET, or None with a note."""
        answer = self.request(url, timeout=timeout)
        if answer is not None and (answer.status != 200 or answer.fault):
            return self.note(url, f"HTTP {answer.status}" if not answer.fault else f"the answer is {answer.fault}")
        return None if answer is None else answer.text

    def request(self, url: str, *, timeout: float = 0.4, api_key: str | None = None) -> HttpAnswer | None:
        """
        Returns the answer to an HTTP GET with its status, or None with a note where there is no answer.

        Under a root that is not `/` the body comes from the file `http/HOST:PORT/PATH` there, so that a fixture never
        contacts this machine's engines.
        """
        try:
            if self.live:
                headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
                return request_http("GET", url, timeout=timeout, limit=MAX_BYTES, headers=headers, follow=True)
            raw = self.read_bytes(f"http/{url.partition('://')[2]}")
            return None if raw is None else HttpAnswer(200, {}, raw)
        except (OSError, ValueError) as error:
            return find_answer(error) or self.note(
                url, getattr(error, "strerror", None) or str(error) or type(error).__name__
            )

    def note(self, path: str, reason: str) -> None:
        """Counts a missing reading; returns None, so that a caller can write `return host.note(…)`."""
        self._notes.append(Note(shorten_url(path) if "://" in path else path, reason))

    def note_error(self, path: str, error: OSError) -> None:
        """Counts a missing reading by the error that took it away; returns None."""
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError | ProcessLookupError)
        self.note(path, "no such file" if is_gone else error.strerror or str(error))

    def take_notes(self) -> list[Note]:
        """Returns the notes since the last call; they belong to the pass that takes them."""
        notes, self._notes = self._notes, []
        return notes

    def spend(self, seconds: float) -> None:
        """Adds processor time that another thread used for this pass."""
        self._spent_seconds += seconds

    def take_spent(self) -> float:
        """Returns the processor time added since the last call."""
        spent, self._spent_seconds = self._spent_seconds, 0.0
        return spent

    def again(self, seconds: float) -> None:
        """Asks for the next pass this many seconds after the start of this one, where that is more than INTERVAL."""
        self._next_pass_seconds = seconds

    def take_again(self) -> float | None:
        """Returns the seconds requested in this pass, if any."""
        seconds, self._next_pass_seconds = self._next_pass_seconds, None
        return seconds

    def get_state(self, kind: type[_T]) -> _T:
        """Returns this collector's state from pass to pass: the one `kind()` of its Host, created by the first call."""
        if kind not in self._states:
            self._states[kind] = kind()
        return cast("_T", self._states[kind])

    kept = get_state  # its name in the first version of the contract: collectors of third parties call it so
