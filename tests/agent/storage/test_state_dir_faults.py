"""State folders that cannot be used as they are. Continues test_state_dir.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.engines.baseline import Baseline
from agent.storage.state_dir import StateDir, StateError, find_state_dir


def test_a_user_without_a_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a container a user may have neither HOME nor an entry in /etc/passwd."""
    for name in ("HOME", "STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)

    with pytest.raises(StateError, match=r"state\.dir"):
        find_state_dir(None)


def test_a_file_that_is_not_text_does_not_stop_the_start(tmp_path: Path) -> None:
    """A baseline file with garbage is ignored, and the baseline is learnt anew."""
    state = StateDir(tmp_path)
    (tmp_path / "baseline.json").write_bytes(b"\xff\xfe\x00garbage")

    assert Baseline(state.read("baseline.json")).expected_speed("r1") is None
    state.close()


def test_a_folder_in_a_files_place_is_named(tmp_path: Path) -> None:
    """A file that cannot be read gives one sentence, not a traceback."""
    state = StateDir(tmp_path)
    (tmp_path / "baseline.json").mkdir()

    with pytest.raises(StateError, match=r"baseline\.json: Is a directory"):
        state.read("baseline.json")
    state.close()


def test_a_stored_speed_beyond_all_numbers_is_not_kept() -> None:
    """An impossible speed is dropped when it is read, rather than failing at each tick."""
    stored = '{"version":1,"bins":{"r1\\u001f\\u001f1":{"100000":100}}}'

    assert Baseline(stored).expected_speed("r1") is None
