"""Pipes, devices, endless files, folders and sockets in the place of files: none is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.alerting.alertmanagers import AlertmanagerDiscovery
from agent.config import loader
from agent.config.loader import ConfigError
from agent.config.schema import AlertmanagerSettings, FileConfig
from agent.configuration import load_configuration
from agent.engines import baseline_handover
from agent.engines.baseline import Baseline
from agent.recorder.reader import read_records
from agent.storage.state_dir import LOCK, StateDir, StateError, state_dir_of_root
from agent.web.webconfig import load_web_config
from collectors._host.cache import Cache
from rules.rulefile import RuleFileError, load_rules
from rules.unittests.test_file import TestFileError, read_test_file
from tests import processes
from tests.agent.test_app_faults import RUN, RunningAgent
from tests.depths import keep_fast


def make_socket(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener, contextlib.chdir(path.parent):
        listener.bind(path.name)


def make_endless(path: Path) -> None:
    path.touch(mode=0o600)
    os.truncate(path, 1 << 40)


KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda path: os.mkfifo(path, 0o600),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "an endless file": make_endless,
    "a folder": lambda path: path.mkdir(),
    "a socket": make_socket,
}
kinds = pytest.mark.parametrize("kind", KINDS)
most_deep = pytest.mark.parametrize("kind", keep_fast(KINDS, "a pipe"))


def replace_files(folder: Path, kind: str) -> list[str]:
    """Puts something else in the place of every file below a folder, but the lock; returns their names."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK]
    for path in files:
        path.unlink()
        KINDS[kind](path)
    return [path.name for path in files]


@pytest.fixture(scope="module", name="used_state")
def _used_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of an agent that has run: every file that one leaves, the next one opens."""
    running = RunningAgent(tmp_path_factory.mktemp("used"))
    running.configure()
    with processes.run_process([*RUN, str(running.config), "--root", str(running.root)], running.log):
        processes.wait_until(lambda: running.fetch_metrics() != "", 40, "ready")
        processes.wait_until(lambda: any((running.home / "state").rglob("full-*")), 40, "a recording")
    baseline_handover.hand_over(running.home / "state", baseline_handover.MeasuredBaseline("r1", "", "1", 1.0))
    return running.home


@most_deep
@pytest.mark.timeout(150)
def test_the_agent_starts_whatever_its_files_are(used_state: Path, tmp_path: Path, kind: str) -> None:
    """With anything in the place of every file of the state folder the agent becomes ready and stays."""
    running = RunningAgent(tmp_path)
    shutil.copytree(used_state / "state", tmp_path / "state")
    # The state of a recorded root is in a folder that is named by its path.
    (old,) = (tmp_path / "state").glob("root-*")
    old.rename(state_dir_of_root(tmp_path / "state", str(running.root)))
    names = replace_files(tmp_path / "state", kind)
    running.configure()
    with processes.run_process([*RUN, str(running.config), "--root", str(running.root)], running.log) as process:
        processes.wait_until(lambda: running.fetch_metrics() != "", 60, "ready")
        processes.wait_until(lambda: "no remedy acts" in running.log.read_text(), 20, "the journal is missed")
        assert process.poll() is None
    log = running.log.read_text()

    assert {"token", "alerts.db", "inbox.db", "journal.db", "baseline.json", "pacing.json"} <= set(names)
    assert "Traceback" not in log
    for name in ("alerts.db", "inbox.db"):
        assert f"{name} cannot be read; moved aside" in log
    assert "token of the state folder could not be used and was replaced" in log


@most_deep
def test_the_lock_is_a_file(tmp_path: Path, kind: str) -> None:
    """A lock that is anything else is refused with a sentence; a large one is one."""
    KINDS[kind](tmp_path / LOCK)
    if kind == "an endless file":
        StateDir(tmp_path).close()
        return
    with pytest.raises(StateError, match="cannot use the state folder"):
        StateDir(tmp_path)


def read_configuration(path: Path) -> object:
    return load_configuration(path)


def read_rules(path: Path) -> object:
    return load_rules([path])


def read_discovery(path: Path) -> object:
    with capture_logs() as lines:
        AlertmanagerDiscovery([AlertmanagerSettings(file_sd_configs=(FileConfig(files=(str(path),)),))]).list_targets()
    raise ConfigError(lines[0]["faults"])


def read_recording(path: Path) -> object:
    if not list(read_records(path)):
        raise ConfigError(["no records"])
    return None


def read_cache(path: Path) -> object:
    if Cache(path.parent).get(path.name) is None:
        raise ConfigError(["nothing cached"])
    return None


def adopt_baseline(path: Path) -> object:
    state = StateDir(path.parent / "state")
    path.rename(state.path / f"{baseline_handover.PREFIX}1.json")
    with capture_logs() as lines:
        asyncio.run(baseline_handover.adopt(state, Baseline()))
    state.close()
    raise ConfigError([line["event"] for line in lines])


READERS: dict[str, Callable[[Path], object]] = {
    "--config": read_configuration,
    "rules.files": read_rules,
    "rules test": read_test_file,
    "web.config": lambda path: load_web_config(str(path)),
    "file_sd_configs": read_discovery,
    "a recording": read_recording,
    "the cache of collectors": read_cache,
    "a measured baseline": adopt_baseline,
}


@kinds
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, kind: str) -> None:
    """Whatever is at the path of a file that somebody configures or hands over, its reader says so."""
    monkeypatch.setattr(loader, "PIPE_SECONDS", 0.1)
    path = tmp_path / "full-00000001.yml"
    KINDS[kind](path)

    with pytest.raises((ConfigError, RuleFileError, TestFileError)):
        READERS[reader](path)


def test_a_configuration_may_come_from_a_pipe(tmp_path: Path) -> None:
    """`--config <(command)`: what the command writes is read to its end, in as many parts as it comes."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def write() -> None:
        with path.open("w") as pipe:
            for line in ("web:\n", "  listen: 127.0.0.1:1\n", "# x\n" * 50_000):
                pipe.write(line)
                pipe.flush()

    writer = threading.Thread(target=write)
    writer.start()
    config, _ = load_configuration(path)
    writer.join()

    assert config.web.listen == "127.0.0.1:1"
