"""
Baselines that a stress run gives to the agent, through the state folder: it alone owns what they become.

A file for each, taken within seconds by an agent that runs, else by the next one that starts with that folder.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import msgspec
import structlog

from agent.engines.baseline import Baseline, BaselineKey
from agent.storage.atomic_file import write_atomically
from agent.storage.state_dir import LOCK, StateDir

PREFIX = "baseline.given."
BASELINE_FILE = "baseline.json"


class MeasuredBaseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an engine was measured to do."""

    engine: str
    model: str
    batch: str
    tokens_per_second: float


def hand_over(folder: Path, measured: MeasuredBaseline) -> Path:
    """Leaves a baseline for the agent; the file that is gone when it was taken. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{PREFIX}{time.time_ns()}.json"
    write_atomically(path, msgspec.json.encode(measured).decode())
    if os.geteuid() == 0:  # root measures, and the agent runs as a user of its own, whose folder this is
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    return path


def is_agent_running(folder: Path) -> bool:
    """Whether an agent runs with this folder: it holds the lock."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # no lock was ever made there, or it is not ours to look at: then the file waits
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def wait_until_adopted(path: Path, timeout: float) -> bool:
    """Waits until the agent has taken what was given; False after so many seconds."""
    deadline = time.monotonic() + timeout
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not path.exists()


def adopt(state: StateDir, baseline: Baseline) -> None:
    """Takes what was given since the last time, oldest first; what cannot be read is dropped and said."""
    log = structlog.get_logger()
    for path in sorted(state.path.glob(f"{PREFIX}*.json")):
        try:
            measured = msgspec.json.decode(path.read_bytes(), type=MeasuredBaseline)
            baseline.set_measured(
                BaselineKey(measured.engine, measured.model, measured.batch), measured.tokens_per_second
            )
            state.write(BASELINE_FILE, baseline.dump())
            log.info(
                "baseline set by hand", engine=measured.engine, model=measured.model, value=measured.tokens_per_second
            )
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            log.warning("a baseline that was given cannot be used", file=str(path), reason=str(error))
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("a baseline that was given cannot be removed", file=str(path), reason=error.strerror)
