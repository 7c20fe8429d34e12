"""Each database of the state folder, met by each fault: what passes is waited for, and only damage is moved aside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.alerting import alert_store, webhook_inbox
from agent.alerting.alert_store import AlertStore
from agent.alerting.webhook_inbox import Inbox
from agent.remediation import journal
from agent.remediation.journal import Journal, JournalError, read_stored_state, take_timestamp
from agent.remediation.model import RemediationState
from agent.storage.sqlite import is_damage, open_database
from tests.agent.storage.database_faults import FAULTS
from tests.agent.storage.database_users import NOW, USERS, write_content
from tests.depths import keep_fast

HOUSE = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(200)
NEED_ROOT = ("file of root",)
MOVED_ASIDE = (alert_store.FILE, webhook_inbox.FILE)


def can_mount() -> bool:
    """True where a process may have mounts of its own."""
    probe = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "x", "/mnt"]
    try:
        return subprocess.run(probe, capture_output=True, check=False, timeout=30).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("fault", keep_fast(FAULTS, "file size", "folder closed"))
def test_a_fault_in_passing_costs_nothing(fault: str) -> None:
    """Each file stays, its user works without it, and comes back by itself with all that the file held."""
    prefix: list[str] = []
    if fault == "full disk":
        if not can_mount():
            pytest.skip("this user may mount nothing, not even in a namespace of its own")
        prefix = ["unshare", "--user", "--map-root-user", "--mount"]
    if fault in NEED_ROOT and os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    with tempfile.TemporaryDirectory() as folder:  # another user must pass it, and may not pass pytest's folders
        os.chmod(folder, 0o711)
        program = [*prefix, sys.executable, "-m", "tests.agent.storage.database_faults", folder, fault]
        done = subprocess.run(program, cwd=HOUSE, capture_output=True, text=True, check=False, timeout=180)

    assert done.returncode == 0, done.stderr


def _make_socket(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener, contextlib.chdir(path.parent):
        listener.bind(path.name)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"garbage" * 1000),
    "torn": lambda path: os.truncate(path, 5000),
    "one bit": lambda path: _flip(path, 4096 + 100),
    "endless": lambda path: (path.write_bytes(b""), os.truncate(path, 1 << 42)),
    "another version": lambda path: _execute(path, "PRAGMA user_version = 99"),
    "no table": lambda path: _execute(path, "DROP TABLE alerts", "DROP TABLE inbox", "DROP TABLE state"),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a socket": lambda path: (path.unlink(), _make_socket(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a log that is a pipe": lambda path: os.mkfifo(path.with_name(f"{path.name}-wal")),
    "gone beside its log": lambda path: path.rename(path.with_name(f"{path.name}-wal")),
}


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content) // 4096 * 4096] ^= 0xFF  # the type of a page of the tree
    path.write_bytes(content)


def _execute(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in statements:
            with contextlib.suppress(sqlite3.OperationalError):  # the tables of the other databases
                database.execute(statement)


def _describe(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {path.name: (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_ino) for path in folder.iterdir()}


@pytest.mark.parametrize("harm", DAMAGES)
@pytest.mark.parametrize("name", MOVED_ASIDE)
def test_what_is_damaged_is_moved_aside(tmp_path: Path, name: str, harm: str) -> None:
    """It is not waited for, whatever it is; one line says so, and the user of the file begins anew and works."""
    write_content(tmp_path, name)
    DAMAGES[harm](tmp_path / name)
    with capture_logs() as lines:
        _open_and_close(tmp_path, name)

    assert [line["event"] for line in lines] == [f"{name} cannot be read; moved aside, starting clean"]
    assert {f"{name}.unreadable", f"{name}.unreadable-wal"} & {path.name for path in tmp_path.iterdir()}
    write_content(tmp_path, name)


def _open_and_close(folder: Path, name: str) -> None:
    if name == alert_store.FILE:
        AlertStore(folder).close()
        return

    async def run() -> None:
        Inbox(folder, NOW).close()

    asyncio.run(run())


@pytest.mark.parametrize("harm", DAMAGES)
def test_a_damaged_journal_stops_all_acting(tmp_path: Path, harm: str) -> None:
    """It stays as it is, since it knows what is held; an emptied one is a lost one, and no clean start."""
    write_content(tmp_path, journal.FILE)
    DAMAGES[harm](tmp_path / journal.FILE)
    before = _describe(tmp_path)
    with pytest.raises(JournalError, match="so no remedy acts") as caught:
        Journal(tmp_path, lambda: take_timestamp(NOW))

    assert not caught.value.is_passing
    assert {name: before[name] for name in before} == {name: _describe(tmp_path)[name] for name in before}


@pytest.mark.parametrize("harm", ["a pipe", "a device", "a socket", "a folder", "garbage"])
def test_a_reader_beside_the_agent_does_not_wait(tmp_path: Path, harm: str) -> None:
    """`remedies audit` and the undoing after a crash get a sentence."""
    write_content(tmp_path, journal.FILE)
    DAMAGES[harm](tmp_path / journal.FILE)

    with pytest.raises(JournalError, match="cannot be read"):
        read_stored_state(tmp_path)


def test_a_state_that_is_gone_beside_its_audit_is_lost(tmp_path: Path) -> None:
    """Each commit writes both, so that an audit without a state is no first start."""
    write_content(tmp_path, journal.FILE)
    with contextlib.closing(sqlite3.connect(tmp_path / journal.FILE, isolation_level=None)) as database:
        database.execute("DELETE FROM state")

    with pytest.raises(JournalError, match="the state of the remedies is not"):
        Journal(tmp_path, lambda: take_timestamp(NOW))


@contextlib.contextmanager
def open_umask() -> Iterator[None]:
    previous = os.umask(0)
    try:
        yield
    finally:
        os.umask(previous)


@pytest.mark.parametrize("before", ["none", "readable by all"])
@pytest.mark.parametrize("name", USERS)
def test_the_log_is_as_private_as_its_database(tmp_path: Path, name: str, before: str) -> None:
    """Whatever the umask, and after older agents, only the owner may read the file, its log and its index."""
    path = tmp_path / name
    with open_umask():
        if before != "none":
            write_content(tmp_path, name)
            path.chmod(0o644)
        database = open_database(path, "CREATE TABLE IF NOT EXISTS more (a);", 1, "FULL")
        database.execute("CREATE TABLE anything (a)")
        modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
        database.close()

    assert modes == {name: 0o600, f"{name}-wal": 0o600, f"{name}-shm": 0o600}


@pytest.mark.parametrize("name", USERS)
def test_a_killed_creation_leaves_no_empty_file(tmp_path: Path, name: str) -> None:
    """Until it is whole, a new database has another name, so that an empty one was emptied by somebody."""
    program = (
        "import os, sqlite3, sys\nfrom pathlib import Path\nfrom agent.storage import sqlite\n"
        "class Killed(sqlite3.Connection):\n    def executescript(self, script):\n        os._exit(9)\n"
        "whole = sqlite3.connect\n"
        "sqlite3.connect = lambda *rest, **keys: whole(*rest, factory=Killed, **keys)\n"
        "sqlite.open_database(Path(sys.argv[1]), 'CREATE TABLE t (a);', 1, 'FULL')\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / name)]
    assert subprocess.run(arguments, cwd=HOUSE, check=False, timeout=60).returncode == 9
    assert [path.name for path in tmp_path.iterdir()] == [f".{name}.new"]

    write_content(tmp_path, name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("path", ["what?", "a#b", "100%25", "ä b"])
def test_any_folder_will_do(tmp_path: Path, path: str) -> None:
    """Characters that mean something in an address are only characters in the name of a folder."""
    folder = tmp_path / path
    folder.mkdir()
    write_content(folder, journal.FILE)

    assert read_stored_state(folder) == RemediationState(pauses=("night",))


@pytest.mark.parametrize("code", sorted(name for name in dir(sqlite3) if name.startswith("SQLITE_IOERR")))
def test_no_fault_of_the_disk_is_damage(code: str) -> None:
    """SQLite has dozens of codes for a disk that fails; none says that the content is lost."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = getattr(sqlite3, code)

    assert not is_damage(error)
