"""The state folder's secrets: each has a file of its own, private, and opens one door."""

from __future__ import annotations

from pathlib import Path

from agent.storage.state_dir import StateDir


def test_two_audiences_have_two_secrets(tmp_path: Path) -> None:
    """The engines' secret is not the API's; both stay as they are once made, and only their owner reads them."""
    state = StateDir(tmp_path / "state")
    api, engines = state.ensure_token_file(), state.ensure_pace_token_file()
    texts = api.read_text(), engines.read_text()

    assert (api.name, engines.name) == ("token", "pace_token")
    assert texts[0] != texts[1]
    assert all(len(text.strip()) >= 43 for text in texts)
    assert {path.stat().st_mode & 0o777 for path in (api, engines)} == {0o600}
    assert (state.ensure_token_file().read_text(), state.ensure_pace_token_file().read_text()) == texts
    state.close()
