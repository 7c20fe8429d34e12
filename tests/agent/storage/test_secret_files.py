"""Secrets in files: which are refused, which are replaced, and that every door refuses the same ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from agent.actions import FailedError
from agent.alerting.alertmanagers import build_request_options, list_targets
from agent.config.loader import ConfigError
from agent.config.schema import AlertingConfig
from agent.remediation.action_context import LiveActionContext
from agent.storage.secret_file import SHORTEST_TOKEN, SecretFileError, read_secret
from agent.storage.state_dir import StateDir, StateError, read_state_token
from agent.web.credentials import TokenFile
from agent.web.webconfig import load_web_config
from collectors import Host
from rules.history.history import History
from tests.certificates import create_authority, create_certificate

NOBODY = 65_534
TOKEN = "a-token-that-nobody-guesses"


def write_file(path: Path, content: bytes | str = TOKEN, mode: int = 0o600, owner: int | None = None) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    if owner is not None:
        os.chown(path, owner, owner)
    return path


BAD_FOR_EVERYBODY: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: write_file(path, ""),
    "blank": lambda path: write_file(path, " \n\t\n"),
    "binary": lambda path: write_file(path, bytes(range(256))),
    "control characters": lambda path: write_file(path, f"{TOKEN}\x00\x1b[2J"),
    "two lines": lambda path: write_file(path, f"{TOKEN}\r\nX-Header: 1"),
    "longer than a header": lambda path: write_file(path, "x" * 4097),
    "endless": lambda path: (write_file(path), os.truncate(path, 1 << 40)),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": lambda path: os.mkfifo(path, 0o600),
    "a folder": lambda path: path.mkdir(),
    "readable by all": lambda path: write_file(path, mode=0o644),
    "writable by its group": lambda path: write_file(path, mode=0o660),
    "writable by all": lambda path: write_file(path, mode=0o602),
}
BAD_IN_THE_STATE_FOLDER = {
    **BAD_FOR_EVERYBODY,
    "short": lambda path: write_file(path, "x" * (SHORTEST_TOKEN - 1)),
    "readable by its group": lambda path: write_file(path, mode=0o640),
}
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.mark.parametrize("harm", BAD_IN_THE_STATE_FOLDER)
def test_our_own_token_is_replaced(tmp_path: Path, harm: str) -> None:
    """A token that strangers know, wrote or guess lets nobody in: a new one is written, and one line says so."""
    state = StateDir(tmp_path)
    BAD_IN_THE_STATE_FOLDER[harm](tmp_path / "token")
    with capture_logs() as lines:
        token = read_state_token(state.ensure_token_file())
        assert read_state_token(state.ensure_token_file()) == token
    state.close()

    assert len(token) >= 32
    assert TOKEN not in token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert [("token" in line["event"], bool(line["reason"])) for line in lines] == [(True, True)]


@only_root
def test_a_strangers_token_is_replaced(tmp_path: Path) -> None:
    """Who owns the file can change it, so that a token of another user is his."""
    state = StateDir(tmp_path)
    write_file(tmp_path / "token", owner=NOBODY)
    with capture_logs():
        assert read_state_token(state.ensure_token_file()) != TOKEN
    state.close()

    assert (tmp_path / "token").stat().st_uid == os.geteuid()


@only_root
def test_a_token_of_the_folders_owner_stays(tmp_path: Path) -> None:
    """Root that runs the agent of a service once does not lock the service out of its own folder."""
    state = StateDir(tmp_path)
    write_file(tmp_path / "token", owner=NOBODY)
    os.chown(tmp_path, NOBODY, NOBODY)
    assert read_state_token(state.ensure_token_file()) == TOKEN
    state.close()

    assert (tmp_path / "token").stat().st_uid == NOBODY


def test_a_sound_token_stays(tmp_path: Path) -> None:
    """A restart does not lock out the clients that have a copy."""
    state = StateDir(tmp_path)
    write_file(tmp_path / "token", TOKEN + "\n")
    with capture_logs() as lines:
        assert read_state_token(state.ensure_token_file()) == TOKEN
    state.close()

    assert lines == []


def test_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    """Whatever somebody has put into a folder named token is not removed; the start is refused with a sentence."""
    state = StateDir(tmp_path)
    (tmp_path / "token").mkdir()
    (tmp_path / "token/notes").write_text("")
    with pytest.raises(StateError, match=r"cannot write .*token"):
        state.ensure_token_file()
    state.close()

    assert (tmp_path / "token/notes").exists()


def read_as_bearer(path: Path) -> str:
    (target,) = list_targets(_parse_alerting(authorization={"credentials_file": str(path)}))
    return str(build_request_options(target)["headers"]["Authorization"]).removeprefix("Bearer ")


def read_as_password(path: Path) -> str:
    (target,) = list_targets(_parse_alerting(basic_auth={"username": "u", "password_file": str(path)}))
    return str(build_request_options(target)["headers"]["Authorization"])


def _parse_alerting(**keys: object) -> AlertingConfig:
    group = {"static_configs": [{"targets": ["127.0.0.1:9093"]}], **keys}
    return msgspec.convert({"alertmanagers": [group]}, AlertingConfig)


def read_in_an_action(path: Path) -> str:
    context = LiveActionContext(History(60_000).snapshot(), 0, "/", "/nowhere", path)
    assert context.token(None) == context.token(str(path))
    return context.token(None)


def read_for_clients(path: Path) -> str:
    with capture_logs() as lines:
        token_file = TokenFile("machine", str(path))
    if lines:
        raise ValueError(lines[0]["reason"])
    return TOKEN if token_file.matches(TOKEN.encode()) else ""


DOORS: dict[str, Callable[[Path], str]] = {
    "read_secret": read_secret,
    "authorization.credentials_file": read_as_bearer,
    "basic_auth.password_file": read_as_password,
    "token_file of an action": read_in_an_action,
    "web.tokens": read_for_clients,
}


@pytest.mark.parametrize("harm", BAD_FOR_EVERYBODY)
@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_it(tmp_path: Path, door: str, harm: str) -> None:
    """An operator's file that holds no secret is refused with a reason that does not tell its content, at once."""
    path = tmp_path / "secret"
    BAD_FOR_EVERYBODY[harm](path)
    with pytest.raises((OSError, ValueError, FailedError)) as caught:
        DOORS[door](path)

    assert TOKEN not in str(caught.value)


@only_root
@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_a_strangers(tmp_path: Path, door: str) -> None:
    """A secret whose owner is neither this user nor root is that owner's."""
    with pytest.raises((ValueError, FailedError), match="belongs to the user 65534"):
        DOORS[door](write_file(tmp_path / "secret", owner=NOBODY))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_a_services_secret(tmp_path: Path, door: str, mode: int) -> None:
    """Root's file that a service's group may read, and a credential of systemd (mode 440), are usual."""
    assert DOORS[door](write_file(tmp_path / "secret", TOKEN + "\n", mode)).startswith((TOKEN, "Basic "))


def test_permissions_count_while_the_agent_runs(tmp_path: Path) -> None:
    """After `chmod o+r` a token lets nobody in, and after `chmod o-r` it does again, without a restart."""
    path = write_file(tmp_path / "secret")
    with capture_logs():
        token_file, answers = TokenFile("machine", str(path)), []
        for mode in (0o600, 0o644, 0o600):
            path.chmod(mode)
            answers.append(token_file.matches(TOKEN.encode()))

    assert answers == [True, False, True]


def test_a_tls_key_is_a_secret(tmp_path: Path) -> None:
    """A private key that everybody may read is refused, and so is a pipe, which OpenSSL would wait for."""
    create_authority(tmp_path)
    _, key = create_certificate(tmp_path, "server")
    config = tmp_path / "web.yml"
    config.write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    assert load_web_config(str(config)).context is not None

    key.chmod(0o644)
    with pytest.raises(ConfigError, match="everybody may read it"):
        load_web_config(str(config))
    key.unlink()
    os.mkfifo(key, 0o600)
    with pytest.raises(ConfigError, match="found a pipe"):
        load_web_config(str(config))


def test_a_password_of_the_bmc_is_a_secret(tmp_path: Path) -> None:
    """A pipe in the place of the BMC's credentials is noted, not waited for."""
    from collectors._ipmi.session import read_credentials

    host = Host(tmp_path)
    os.mkfifo(tmp_path / "bmc", 0o600)

    assert read_credentials(host, "bmc") is None
    assert [note.reason for note in host.take_notes()] == ["expected a regular file, found a pipe"]


def test_a_refusal_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    """A refused file and a missing one are different errors: only the second may come back by itself."""
    with pytest.raises(SecretFileError, match="chmod 640"):
        read_secret(write_file(tmp_path / "secret", mode=0o644))
    with pytest.raises(FileNotFoundError):
        read_secret(tmp_path / "none")


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
