"""Keeps small texts by name from one process to the next, such as a BMC's list of sensors."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from collectors._host.regular_files import read_regular_file

_MAX_BYTES = 1 << 20  # bytes; a repository of 1,000 sensor records is 130 KiB


class Cache:
    """
    Texts in a folder, or only in memory where there is no folder.

    The texts save time and are never the only source. A folder that cannot be used costs that time and nothing else.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._texts: dict[str, str] = {}

    def get(self, name: str) -> str | None:
        """Returns the text stored under the name, or None."""
        if name not in self._texts and self._folder is not None:
            # An unreadable file, or one that is not text, counts as absent.
            with contextlib.suppress(OSError, UnicodeDecodeError):
                self._texts[name] = read_regular_file(self._folder / name, _MAX_BYTES).decode("utf-8")
        return self._texts.get(name)

    def put(self, name: str, text: str) -> None:
        """Replaces the whole text: after a crash the file holds either the old text or the new one, never a mixture."""
        self._texts[name] = text
        if self._folder is not None:
            with contextlib.suppress(OSError):  # full disk or foreign folder: the text lasts until exit
                self._write(self._folder, name, text)

    @staticmethod
    def _write(folder: Path, name: str, text: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")  # readable by its owner only
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, folder / name)
        except BaseException:
            os.unlink(temporary)
            raise
