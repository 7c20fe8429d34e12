"""The state folder, which outlives the process: its location, its lock, its files and the token of the API."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import zlib
from pathlib import Path

from agent.runtime.errors import describe_reason
from agent.storage.atomic_file import write_atomically
from agent.storage.secret_file import SHORTEST_TOKEN, SecretFileError, check_secret
from collectors import NotRegularFileError, check_regular_file, read_regular_file

LOCK = "lock"
COLLECTOR_CACHE = "shelf"  # the name on disk stays, so that an upgrade finds its texts
"""The subfolder for collectors' caches, which outlive the process."""

TOKEN = "token"
PACE_TOKEN = "pace_token"
MAX_TOKEN_BYTES = 4096  # of a token's file; a longer one would fit into no header of a request
MAX_FILE_BYTES = 16 << 20  # of one file of text; the baselines of 100 engines have some 200 KiB


class StateError(Exception):
    """The state folder cannot be used; the message names it, the reason and a remedy."""

    def __init__(self, message: str, is_passing: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing
        """True if the file itself may be sound, and reading it may succeed later."""


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
            self._lock = _open_lock(path / LOCK)
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
        return self._ensure_secret(TOKEN)

    def ensure_pace_token_file(self) -> Path:
        """Returns the file with the secret of the engines: it sets their pace, and opens nothing of the API."""
        return self._ensure_secret(PACE_TOKEN)

    def _ensure_secret(self, name: str) -> Path:
        """
        Returns a file with a secret, created where there is none.

        A file that strangers know or wrote, or that can be guessed, is replaced: with an empty token everybody could
        pause the remedies.
        """
        path = self.path / name
        try:
            read_state_token(path)
        except FileNotFoundError:
            self._write_token(path)
        except (NotRegularFileError, SecretFileError) as error:
            self._write_token(path)
            import structlog  # takes long to import; a command that only reads beside the agent has no use for it

            structlog.get_logger().warning(
                "a token of the state folder could not be used and was replaced; give the new one to every client "
                "and engine that has a copy",
                file=str(path),
                reason=describe_reason(error),
            )
        except OSError as error:  # a fault in passing: the token itself may be sound
            raise StateError(f"cannot read {path}: {error.strerror}; make it readable, or move it away") from error
        return path

    def _write_token(self, path: Path) -> None:
        try:
            if path.is_dir():  # only an empty folder can be removed: whatever is in it belongs to somebody
                path.rmdir()
            self.write(path.name, secrets.token_urlsafe(32) + "\n")
            read_state_token(path)
        except SecretFileError as error:
            hint = "set state.dir to a file system that has owners and permissions"
            raise StateError(f"cannot keep {path} private: {error}; {hint}") from error
        except OSError as error:
            raise StateError(f"cannot write {path}: {error.strerror}; make room, or set state.dir") from error

    def read(self, name: str) -> str | None:
        """Returns the text of a file in the folder; None where there is no such file."""
        try:
            return read_regular_file(self.path / name, MAX_FILE_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            is_passing = not isinstance(error, NotRegularFileError)
            sentence = f"cannot read {self.path / name}: {error.strerror}; move the file away, or make it readable"
            raise StateError(sentence, is_passing) from error

    def move_aside(self, name: str) -> Path:
        """Renames a file that is damaged, so that it is not replaced; returns its new path. Raises OSError."""
        aside = self.path / f"{name}.unreadable"
        os.replace(self.path / name, aside)
        return aside

    def write(self, name: str, text: str) -> None:
        """Replaces a file in the folder atomically. Raises OSError."""
        write_atomically(self.path / name, text)

    def close(self) -> None:
        """Releases the lock."""
        os.close(self._lock)


def read_state_token(path: Path) -> str:
    """
    Returns the token of a state folder. Raises SecretFileError, or OSError where it cannot be read.

    The folder's owner may own it too: that user could replace it anyway, and root may run the agent of a service once.
    """
    status = check_regular_file(path, MAX_TOKEN_BYTES)
    if status.st_uid not in (os.geteuid(), path.parent.stat().st_uid):
        raise SecretFileError(f"it belongs to the user {status.st_uid}")
    if status.st_mode & 0o077:
        raise SecretFileError(f"others than its owner may use it (mode {status.st_mode & 0o777:o})")
    return check_secret(read_regular_file(path, MAX_TOKEN_BYTES), SHORTEST_TOKEN)


def read_token_of_agent(folder: Path) -> str:
    """Returns the token that a client sends to the agent with that folder, whose user may be another one."""
    return check_secret(read_regular_file(folder / TOKEN, MAX_TOKEN_BYTES), shortest=1)


def _open_lock(path: Path) -> int:
    """Opens the lock file. O_NONBLOCK: in the place of the file there may be a pipe or a device."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, f"expected a regular file as {path.name}, found another kind", str(path))
