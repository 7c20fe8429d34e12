"""The state folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.storage.state_dir import StateDir, StateError, find_state_dir


def test_where_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration takes precedence, then systemd, then the user's own state folder."""
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/steadytok:/other")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/x/state")
    assert find_state_dir("/given") == Path("/given")
    assert find_state_dir(None) == Path("/var/lib/steadytok")

    monkeypatch.delenv("STATE_DIRECTORY")
    assert find_state_dir(None) == Path("/home/x/state/steadytok")


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    """A second agent is refused with a hint, and can use the folder once the first has ended."""
    first = StateDir(tmp_path / "state")
    with pytest.raises(StateError, match="another steadytok runs"):
        StateDir(tmp_path / "state")
    first.close()

    StateDir(tmp_path / "state").close()


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    """A file in the folder's place gives one sentence that names it."""
    (tmp_path / "state").write_text("")
    with pytest.raises(StateError, match="cannot use the state folder"):
        StateDir(tmp_path / "state")


def test_the_token_is_made_once_and_kept_private(tmp_path: Path) -> None:
    """The token survives a restart, and only its owner can read it."""
    state = StateDir(tmp_path / "state")
    path = state.ensure_token_file()
    token = path.read_text()

    assert len(token.strip()) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert state.ensure_token_file().read_text() == token
    state.close()


def test_writing_replaces_whole(tmp_path: Path) -> None:
    """After a write the file holds the new text, and no temporary file remains."""
    state = StateDir(tmp_path / "state")
    assert state.read("baseline.json") is None
    state.write("baseline.json", "one")
    state.write("baseline.json", "two")

    assert state.read("baseline.json") == "two"
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"baseline.json", "lock"}
    state.close()
