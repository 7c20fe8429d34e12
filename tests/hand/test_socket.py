"""Access control and input checks of the hand's socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hand.arguments import Arguments
from hand.config import HandConfig, HandConfigError, load_config
from hand.errors import HandError, HandRefusedError, LimitExceededError
from hand.peer import Peer, check_peer, is_within, read_cgroup
from hand.server import refuse_connection
from tests.hand.conftest import CONFIG, HOUSE, RunningHand, wait_until


def test_others_are_turned_away() -> None:
    """Another user and another cgroup are refused; a cgroup below the configured one is accepted."""
    caller = Peer(os.getpid(), 990)
    check_peer(caller, HandConfig(uids=frozenset({990}), cgroup=read_cgroup(os.getpid())))
    check_peer(caller, HandConfig(uids=frozenset({990}), cgroup=None))

    with pytest.raises(HandRefusedError, match="user 0 may not use this hand"):
        check_peer(Peer(os.getpid(), 0), HandConfig(uids=frozenset({990})))
    with pytest.raises(HandRefusedError, match=r"only /system\.slice/steadytok\.service may use this hand"):
        check_peer(caller, HandConfig(uids=frozenset({990})))
    assert is_within("/system.slice/steadytok.service/eye", "/system.slice/steadytok.service")
    assert not is_within("/system.slice/steadytok.service-evil", "/system.slice/steadytok.service")


def test_a_caller_of_another_cgroup_is_turned_away_at_the_socket(folder: Path) -> None:
    """The real process checks the caller's cgroup before it reads a byte."""
    if os.geteuid() != 0:
        pytest.skip("only root can own a trusted configuration")
    (folder / "hand.toml").write_text('[peer]\nuser = "root"\ncgroup = "/not/ours.service"\n' + CONFIG)
    hand = RunningHand(folder)
    hand.terminate()
    arguments = ["--socket", str(hand.socket_path), "--config", str(folder / "hand.toml"), "--root", str(hand.root)]
    strict = StrictHand(folder, arguments)
    answer = strict.send(b'{"verb": "hello"}\n')

    assert answer["code"] == "refused"
    assert "only /not/ours.service may use this hand" in answer["error"]
    strict.terminate()


class StrictHand(RunningHand):
    """A hand that is not in direct mode."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.arguments = arguments
        super().__init__(folder)

    def start(self) -> None:
        """Starts the process as systemd does, but without a passed socket."""
        import subprocess
        import sys
        import time

        self.log = (self.folder / "strict").open("w+b")
        command = [sys.executable, "-m", "hand", "--state", str(self.folder / "state"), *self.arguments]
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=self.log)
        while not self.socket_path.exists() or b"ready" not in (self.folder / "strict").read_bytes():
            assert self.process.poll() is None, (self.folder / "strict").read_text()
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\n", "invalid"),
        (b"null\n", "invalid"),
        (b"[]\n", "invalid"),
        (b'{"verb": 1}\n', "invalid"),
        (b'{"verb": "hello", "arguments": []}\n', "invalid"),
        (b'{"verb": "hello", "more": 1}\n', "invalid"),
        (b'{"verb": "reboot"}\n', "unknown"),
        (b'{"verb": "../../bin/sh"}\n', "unknown"),
        (b"[" * 4000 + b"\n", "invalid"),
        (b"x" * 5000 + b"\n", "invalid"),
        (b'{"verb": "governor", "arguments": {"policy": "0/../../x"}}\n', "invalid"),
        (b'{"verb": "governor", "arguments": {"policy": true}}\n', "invalid"),
        (b'{"verb": "freeze", "arguments": {"unit": "../llama.service"}}\n', "invalid"),
        (b'{"verb": "freeze", "arguments": {"unit": "llama.service", "duty": NaN}}\n', "invalid"),
        (b'{"verb": "reclaim", "arguments": {"node": 0, "bytes": 1e400}}\n', "invalid"),
        (b"\xff\xfe\n", "invalid"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(hand: RunningHand, raw: bytes, code: str) -> None:
    """The hand refuses nonsense and still answers the next request."""
    answer = hand.send(raw)

    assert (answer["ok"], answer["code"]) == (False, code)
    assert len(answer["error"]) < 300
    assert hand.request_result("hello")["version"]


def test_several_requests_come_over_one_connection(hand: RunningHand) -> None:
    """Requests are answered in order, whether they arrive in one piece or byte by byte."""
    request = b'{"verb": "hello"}\n'
    with hand.connect() as connection, connection.makefile("rb") as lines:
        connection.sendall(request * 3)
        for byte in request:
            connection.sendall(bytes([byte]))
        assert all(json.loads(lines.readline())["ok"] for _ in range(4))


def test_a_ninth_caller_is_told_to_come_later(hand: RunningHand) -> None:
    """Eight idle connections use all slots; when one closes, its slot is free again."""
    with contextlib.ExitStack() as silent:
        for _ in range(8):
            connection = silent.enter_context(hand.connect())
            connection.sendall(b'{"verb": "hello"}\n')
            assert connection.recv(1 << 16)  # its thread has started once it answers
        assert hand.send(b"")["code"] == "limited"

    wait_until(lambda: hand.send(b'{"verb": "hello"}\n').get("code") != "limited")


def test_a_ninth_caller_that_leaves_does_not_end_the_hand() -> None:
    """A caller that hangs up before it is refused is no error: the loop goes on to accept others."""
    accepted, caller = socket.socketpair()
    caller.close()
    refuse_connection(accepted, LimitExceededError("already serving 8 callers"))

    assert accepted.fileno() == -1


@pytest.mark.deep
def test_half_a_line_is_not_waited_for(hand: RunningHand) -> None:
    """A caller that stops in the middle of a line gets an error, and the connection closes."""
    with hand.connect() as connection, connection.makefile("rb") as lines:
        connection.sendall(b'{"verb": "he')
        assert json.loads(lines.readline())["error"].startswith("incomplete line")
        assert lines.readline() == b""


def test_a_caller_that_leaves_harms_nobody(hand: RunningHand) -> None:
    """A caller may hang up in the middle of a line or before its answer."""
    for raw in (b"", b'{"verb', b'{"verb": "hello"}\n'):
        connection = hand.connect()
        connection.sendall(raw)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    assert hand.request_result("hello")["version"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = ("policy", "governor", "lease", "ttl", "expected", "unit", "duty", "period", "node", "bytes", "name", "leases")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    verb=st.sampled_from(["governor", "epp", "freeze", "reclaim", "compact", "command", "migrate", "renew", "release"]),
    arguments=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), JSON, max_size=6),
)
def test_no_request_ends_the_hand(hand: RunningHand, verb: str, arguments: dict[str, object]) -> None:
    """Any arguments get an answer; an error has a code and a sentence."""
    answer = hand.send(json.dumps({"verb": verb, "arguments": arguments}).encode()[:4000] + b"\n")

    assert answer["ok"] or (answer["code"] != "failed" and answer["error"])
    assert hand.process.poll() is None


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_what_is_left_over_is_refused(raw_arguments: dict[str, object]) -> None:
    """An unknown argument is an error, never ignored."""
    arguments = Arguments(raw_arguments)
    if raw_arguments:
        with pytest.raises(HandError, match="unknown argument"):
            arguments.reject_unknown()
    else:
        arguments.reject_unknown()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "x: unknown"),
        ("[", "not TOML"),
        ('[peer]\nuser = "nobody-of-this-name"', "this host has no user 'nobody-of-this-name'"),
        ('[peer]\nuser = "root"\ncgroup = "../x"', "peer.cgroup: expected a cgroup"),
        ('[peer]\nuser = "root"\n[units.sshd]\nfreeze = true', "units.sshd: expected a table under a name such as"),
        ('[peer]\nuser = "root"\n[units."a.service"]\nfreeze = 1', "units.a.service.freeze: expected true or false"),
        ('[peer]\nuser = "root"\n[units."a.service"]\nthaw = true', "units.a.service.thaw: unknown"),
        ('[peer]\nuser = "root"\n[commands.c]\nargv = "sh -c x"', "commands.c.argv: expected a list of texts"),
        ('[peer]\nuser = "root"\n[commands.c]\nargv = ["sh"]', "expected the program with its absolute path"),
        (
            '[peer]\nuser = "root"\n[commands.c]\nargv = ["/bin/sh"]\nuser = "nobody-of-this-name"',
            "this host has no user",
        ),
        ('[peer]\nuser = "root"\n[commands.c]\nargv = ["/bin/sh"]\nenvironment = ["PATH"]', "begin with STEADYTOK_"),
        ('[peer]\nuser = "root"\n[commands.c]\nargv = ["/bin/sh"]\ntimeout = 0', "more than 0 and at most 60"),
        ('[peer]\nuser = "root"\n[commands.c]\nargv = ["/bin/sh"]\ntimeout = 61', "more than 0 and at most 60"),
    ],
)
def test_a_wrong_configuration_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """The sentence names the file, the key and the expected value."""
    path = tmp_path / "hand.toml"
    path.write_text(text)
    path.chmod(0o644)
    with pytest.raises(HandConfigError) as error:
        load_config(path, trusted_owners=frozenset({os.getuid()}))

    assert str(error.value).startswith(f"{path}: ")
    assert sentence in str(error.value)


def test_the_configuration_of_the_documentation_is_right(tmp_path: Path) -> None:
    """The example of docs/actions.md is valid, except for a user that this host may not have."""
    text = (HOUSE / "docs/actions.md").read_text().partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "hand.toml"
    path.write_text(text.replace('user = "steadytok"', 'user = "root"'))
    path.chmod(0o644)
    config = load_config(path, trusted_owners=frozenset({os.getuid()}))

    assert config.units["llama.service"].freeze
    assert config.commands["tell"].environment == {"STEADYTOK_REMEDY", "STEADYTOK_LABEL_DIMM"}


def test_a_configuration_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    """A file of another owner is refused, and so is a file that its group can write."""
    path = tmp_path / "hand.toml"
    path.write_text("")
    path.chmod(0o664)
    with pytest.raises(HandConfigError, match="only root can write"):
        load_config(path, trusted_owners=frozenset({os.getuid()}))
    path.chmod(0o644)
    with pytest.raises(HandConfigError, match="only root can write"):
        load_config(path, trusted_owners=frozenset({os.getuid() + 1}))
