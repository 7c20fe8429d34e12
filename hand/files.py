"""Reads and writes the kernel's files, below a root folder that is / except in tests."""

from __future__ import annotations

import os
from pathlib import Path

from hand.children import Children
from hand.errors import HandError

_MAX_BYTES = 4096  # bytes read of a file; these files hold a word or a line


class KernelFiles:
    """Accesses small files of the kernel by their path below the root."""

    def __init__(self, root: Path, children: Children | None = None) -> None:
        self.root = root
        self.children = children or Children()

    def exists(self, path: str) -> bool:
        """True while the file exists."""
        return (self.root / path).exists()

    def read(self, path: str) -> str:
        """Returns the file's text without surrounding white space; raises HandError."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(_MAX_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise HandError(f"{path}: {_describe_error(error)}") from error

    def write(self, path: str, text: str) -> None:
        """Writes the text in one system call and never creates a file; raises HandError with the kernel's reason."""
        try:
            descriptor = os.open(self.root / path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.write(descriptor, text.encode("ascii"))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise HandError(f"{path}: {_describe_error(error)}") from error

    def write_with_timeout(self, path: str, text: str, timeout: float) -> bool:
        """
        Writes in a process that can be killed, for writes that take the kernel long; returns False after the timeout.

        A write to drop_caches or memory.reclaim returns when the kernel is done; SIGKILL ends the write early.
        Raises HandError with the kernel's reason.
        """
        completed = self.children.run("hand.slow_write", [str(self.root / path), text], b"", timeout)
        if completed is None:
            return False
        if completed.status:
            raise HandError(f"{path}: {completed.error.decode(errors='replace').strip()[-200:]}")
        return True

    def read_free_bytes(self) -> int:
        """Returns MemFree of /proc/meminfo; raises HandError."""
        try:
            with (self.root / "proc/meminfo").open() as file:
                fields = dict(line.split(":", 1) for line in file if ":" in line)
            return int(fields["MemFree"].split()[0]) * 1024
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise HandError(f"proc/meminfo: {_describe_error(error)}") from error


def _describe_error(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else f"not what the kernel writes ({error})"
