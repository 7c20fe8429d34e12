"""The state folder, which outlives the process: its location, its lock, its files and the token of the API."""

from __future__ import annotations

import fcntl
import os
import secrets
import zlib
from pathlib import Path

from agent.storage.atomic_file import write_atomically

LOCK = "lock"
COLLECTOR_CACHE = "shelf"  # the name on disk stays, so that an upgrade finds its texts
"""The subfolder for collectors' caches, which outlive the process."""


class StateError(Exception):
    """The state folder cannot be used; the message names it, the reason and a remedy."""


def find_state_dir(configured: str | None) -> Path:
    """Returns `state.dir`, else $STATE_DIRECTORY (systemd), else $XDG_STATE_HOME/steadytok."""
    if configured:
        return Path(configured)
    if value := os.environ.get("STATE_DIRECTORY"):
        return Path(value.split(":")[0])
    if value := os.environ.get("XDG_STATE_HOME"):
        return Path(value) / "steadytok"
    try:
        return Path.home() / ".local" / "state" / "steadytok"
    except RuntimeError as error:  # a container's user without HOME and without an entry in /etc/passwd
        raise StateError(
            "this user has no home folder; set state.dir, or STATE_DIRECTORY in the environment"
        ) from error


def state_dir_of_root(state: Path, root: str) -> Path:
    """
    Returns the folder for the state of the machine at `root`: a subfolder unless that is this host's own `/`.

    The state of a recorded machine must not mix with the state of this host.
    """
    path = os.path.abspath(root)
    return state if path == "/" else state / f"root-{zlib.crc32(os.fsencode(path)):08x}"


def find_collector_cache_dir(configured: str | None, root: str) -> Path | None:
    """Returns the agent's cache of collectors for a command that reads beside it; None where it cannot be used."""
    try:
        path = find_state_dir(configured) / COLLECTOR_CACHE
    except StateError:
        return None  # no home folder: a command that only reads needs no cache
    # Not created here: the agent's user could not write to a folder that root created.
    return path if os.path.abspath(root) == "/" and os.access(path, os.W_OK) else None


class StateDir:
    """An open and locked state folder; only one agent at a time can use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = f"cannot use the state folder {path}: {error.strerror}; set state.dir to a writable folder"
            raise StateError(reason) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            reason = f"another steadytok runs with the state folder {path}; end it, or set state.dir to another folder"
            raise StateError(reason) from error

    def ensure_token_file(self) -> Path:
        """Returns the file with the API's credential; creates it at the first start, readable by its owner only."""
        path = self.path / "token"
        if not path.exists():
            try:
                self.write("token", secrets.token_urlsafe(32) + "\n")
            except OSError as error:
                raise StateError(f"cannot write {path}: {error.strerror}; make room, or set state.dir") from error
        return path

    def ensure_pace_token_file(self) -> Path:
        """Returns the file with the secret of the engines: it sets their pace, and opens nothing of the API."""
        path = self.path / "pace_token"
        if not path.exists():
            try:
                self.write("pace_token", secrets.token_urlsafe(32) + "\n")
            except OSError as error:
                raise StateError(f"cannot write {path}: {error.strerror}; make room, or set state.dir") from error
        return path

    def read(self, name: str) -> str | None:
        """Returns the text of a file in the folder; None where there is no such file."""
        try:
            return (self.path / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"cannot read {self.path / name}: {error.strerror}; move the file away") from error

    def write(self, name: str, text: str) -> None:
        """Replaces a file in the folder atomically. Raises OSError."""
        write_atomically(self.path / name, text)

    def close(self) -> None:
        """Releases the lock."""
        os.close(self._lock)
