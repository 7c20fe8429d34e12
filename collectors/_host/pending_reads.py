"""
Knows which file a pass is reading, and which reads have not returned, so that one stuck file costs a pass only itself.

A read that hangs in the kernel cannot be cancelled (https://github.com/prometheus/node_exporter/issues/3791: a
scaling_cur_freq that never answers). Whoever runs the pass abandons it together with its thread, and starts the pass
again; the file is then skipped. It is read again once that read has returned, and not before a minute is over.
"""

from __future__ import annotations

import threading
import time

MAX_ABANDONED = 8  # reads of one collector that have not returned; each costs a thread
_LONGEST = 60.0  # seconds of one read that makes progress: a file that drips without end is stuck too
_RETRY_DELAY = 60.0  # seconds until a file is read again whose read took too long


class ReadAbandonedError(BaseException):
    """
    Ends the thread of an abandoned read once that read has returned: another thread runs the collector meanwhile.

    Like SystemExit no Exception, since a collector that catches all of those must not go on either.
    """


class PendingRead:
    """One read under way, or abandoned; the end of an abandoned one raises ReadAbandonedError."""

    __slots__ = ("_reads", "_thread", "abandoned_at", "began", "has_returned", "path", "progress_at")

    def __init__(self, reads: PendingReads, path: str) -> None:
        self.path = path
        self.began = self.progress_at = time.monotonic()
        self.abandoned_at: float | None = None
        self.has_returned = False
        self._reads = reads
        self._thread = threading.get_ident()

    def __enter__(self) -> PendingRead:
        self._reads.by_thread[self._thread] = self
        return self

    def __exit__(self, *_error: object) -> None:
        with self._reads.lock:
            self.has_returned = True
            if self.abandoned_at is None:
                del self._reads.by_thread[self._thread]
        if self.abandoned_at is not None:
            raise ReadAbandonedError(self.path)

    def note_progress(self) -> None:
        """Begins the time anew after each system call that has returned: a long file is not a stuck one."""
        self.progress_at = time.monotonic()


class PendingReads:
    """The reads that one collector has under way, by thread, and those that were abandoned."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_thread: dict[int, PendingRead] = {}
        self._abandoned: dict[str, PendingRead] = {}

    def find_path(self, thread: int | None) -> str | None:
        """Returns the file that a thread is reading now."""
        read = self.by_thread.get(thread or 0)
        return None if read is None else read.path

    def abandon(self, thread: int | None, after: float) -> str | None:
        """
        Abandons the read of a thread if it has made no progress for `after` seconds; returns its path, else None.

        Returns None, too, where too many reads have not returned: then the pass waits for this one.
        """
        with self.lock:
            read, now = self.by_thread.get(thread or 0), time.monotonic()
            if read is None or (now - read.progress_at < after and now - read.began < _LONGEST):
                return None
            if sum(not abandoned.has_returned for abandoned in self._abandoned.values()) >= MAX_ABANDONED:
                return None
            read.abandoned_at = now
            self._abandoned[read.path] = read
            del self.by_thread[thread or 0]
            return read.path

    def explain_skip(self, path: str) -> str | None:
        """Returns why a file is not read now; None where it is to be read."""
        read = self._abandoned.get(path)
        if read is None:
            return None
        if not read.has_returned:
            return "a read has not returned; the file is skipped meanwhile"
        if time.monotonic() - (read.abandoned_at or 0.0) < _RETRY_DELAY:
            return f"was not readable in time; it is read again after {_RETRY_DELAY:g} s"
        del self._abandoned[path]
        return None
