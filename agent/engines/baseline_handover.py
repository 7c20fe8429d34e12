"""
Hands baselines that a bench run measured to the agent, through files in the state folder.

Only the agent changes its baselines. A running agent adopts a file within seconds; otherwise the next agent that starts
with that folder does.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from agent.engines.baseline import Baseline, BaselineKey
from agent.runtime.threads import run_in_thread
from agent.storage.atomic_file import write_atomically
from agent.storage.state_dir import LOCK, StateDir
from collectors import read_regular_file

PREFIX = "baseline.given."
BASELINE_FILE = "baseline.json"
_MAX_BYTES = 1 << 16  # of a measured baseline, which has four fields


class MeasuredBaseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The measured speed of an engine."""

    engine: str
    model: str
    batch: str
    tokens_per_second: float


def hand_over(folder: Path, measured: MeasuredBaseline) -> Path:
    """Writes a baseline for the agent; returns its file, which the agent deletes on adoption. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{PREFIX}{time.time_ns()}.json"
    write_atomically(path, msgspec.json.encode(measured).decode())
    if os.geteuid() == 0:  # the agent, the owner of the folder, must be able to delete the file
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    return path


def is_agent_running(folder: Path) -> bool:
    """Returns True if an agent that runs with this folder holds its lock."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # no lock file yet, or it is not readable for this user: the file waits for the next start
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def wait_until_adopted(path: Path, timeout: float) -> bool:
    """Waits until the agent has adopted the file; returns False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not path.exists()


async def adopt(state: StateDir, baseline: Baseline) -> None:
    """
    Adopts the baselines handed over since the last call, oldest first; drops and logs the unreadable ones.

    The files are read and written in a thread, the baseline changes on the event loop.
    """
    handed_over = await run_in_thread("read baselines", lambda: _read_handed_over(state.path))
    if not handed_over:
        return
    for path, measured in handed_over:
        if measured is not None:
            _set_measured(baseline, path, measured)
    text = baseline.dump()
    await run_in_thread("write baselines", lambda: _save_and_remove(state, text, [path for path, _ in handed_over]))


def _read_handed_over(folder: Path) -> list[tuple[Path, MeasuredBaseline | None]]:
    handed_over = []
    for path in sorted(folder.glob(f"{PREFIX}*.json")):
        measured = None
        try:
            measured = msgspec.json.decode(read_regular_file(path, _MAX_BYTES), type=MeasuredBaseline)
        except (OSError, msgspec.MsgspecError) as error:
            _log_unusable(path, error)
        handed_over.append((path, measured))
    return handed_over


def _set_measured(baseline: Baseline, path: Path, measured: MeasuredBaseline) -> None:
    value, key = measured.tokens_per_second, BaselineKey(measured.engine, measured.model, measured.batch)
    try:
        baseline.set_measured(key, value)
    except ValueError as error:
        _log_unusable(path, error)
    else:
        structlog.get_logger().info("baseline set by hand", engine=key.engine, model=key.model, value=value)


def _log_unusable(path: Path, error: Exception) -> None:
    structlog.get_logger().warning("a measured baseline cannot be used", file=str(path), reason=str(error))


def _save_and_remove(state: StateDir, text: str, paths: Iterable[Path]) -> None:
    log = structlog.get_logger()
    try:
        state.write(BASELINE_FILE, text)
    except OSError as error:  # it holds in memory, and is saved with the next baselines
        log.warning("baselines cannot be saved", folder=str(state.path), reason=error.strerror)
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the file of a measured baseline cannot be removed", file=str(path), reason=error.strerror)
