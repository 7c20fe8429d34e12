"""
Gives collectors read access to a machine's files; no other module opens kernel files.

This module alone handles files that are absent, empty, unreadable, not text or too large. A collector receives a value
or None; the reason is noted and counted.
"""

from __future__ import annotations

import fnmatch
import os
import re
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from collectors._host.cache import Cache
from collectors._host.files import MAX_BYTES, PAGE, read_all
from collectors._host.http_answers import request_http, shorten_url

_DIGITS = re.compile(r"(\d+)")
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_T = TypeVar("_T")


class Note(NamedTuple):
    """One missing reading and the reason for it."""

    path: str
    reason: str


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
        try:
            text = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            return self.note(relative, "not text")
        if not text:
            return None if optional else self.note(relative, "empty")
        return text

    def read_bytes(self, relative: str, *, optional: bool = False, largest: int = MAX_BYTES) -> bytes | None:
        """Returns the file's bytes, or None with a note; an optional file may be absent without a note."""
        try:
            return read_all(self._prefix + relative.lstrip("/"), PAGE if relative.startswith("sys/") else 0, largest)
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None if optional else self.note(relative, "no such file")
        except OSError as error:
            return self.note(relative, error.strerror or str(error))

    def read_int(self, relative: str, *, optional: bool = False) -> int | None:
        """Returns the whole number that is the file's only content, or None with a note."""
        text = self.read(relative, optional=optional)
        if text is None:
            return None
        return self.integer(text, relative)

    def integer(self, text: str, relative: str) -> int | None:
        """Returns `text` as a whole number, or None with a note; `1_000` and `<unknown>` are not numbers."""
        if _INTEGER.fullmatch(text) is None or len(text) > 20:
            return self.note(relative, f"expected a whole number, found {text[:40]!r}")
        return int(text)

    def lines(self, relative: str, *, optional: bool = False) -> list[str]:
        """Returns the file's lines; an empty list, with a note, where the file cannot be read."""
        text = self.read(relative, optional=optional)
        return [] if text is None else text.splitlines()

    def names(self, relative: str) -> list[str]:
        """Returns the entries of a folder in natural order (node2 before node10); an empty list where it is absent."""
        try:
            return sorted(filter(_is_text, os.listdir(self.path(relative))), key=natural)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.note(relative, error.strerror or str(error))
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
        """
        Returns the body of an HTTP GET, or None with a note.

        Under a root that is not `/` the body comes from the file `http/HOST:PORT/PATH` there, so that a fixture never
        contacts this machine's engines.
        """
        if not self.live:
            parts = urllib.parse.urlsplit(url)
            query = f"?{parts.query}" if parts.query else ""
            return self.read(f"http/{parts.netloc}{parts.path}{query}")
        try:
            answer = request_http("GET", url, timeout=timeout, limit=MAX_BYTES, follow=True)
            if answer.status // 100 != 2:
                return self.note(url, f"HTTP {answer.status}")
            return answer.body.decode("utf-8")
        except UnicodeDecodeError:
            return self.note(url, "not text")
        except (OSError, ValueError) as error:
            return self.note(url, getattr(error, "strerror", None) or str(error) or type(error).__name__)

    def note(self, path: str, reason: str) -> None:
        """Counts a missing reading; returns None, so that a caller can write `return host.note(…)`."""
        self._notes.append(Note(shorten_url(path) if "://" in path else path, reason))

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


def _is_text(name: str) -> bool:
    return name.isprintable()  # bytes that are not UTF-8 arrive as lone surrogates, which are not printable


def natural(name: str) -> list[Any]:
    """Returns a sort key that puts node2 before node10."""
    return [int(part) if part.isdecimal() else part for part in _DIGITS.split(name)]
