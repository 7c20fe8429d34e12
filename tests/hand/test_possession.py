"""One hand for each state folder and socket; and no state that others can change."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from agent.storage.ownership import find_changeable
from hand.config import HandConfig
from hand.errors import HandError
from hand.possession import check_owners, create_listener
from hand.server import HandServer
from hand.service import Service
from tests.hand.conftest import RunningHand, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def start_second(hand: RunningHand, **places: str) -> str:
    """Starts a hand beside the first, at other places where given; returns the sentence with which it ends."""
    options = [text for name, value in places.items() for text in (f"--{name}", str(hand.folder / value))]
    with pytest.raises(AssertionError) as failure:
        RunningHand(hand.folder, *options)
    return str(failure.value).splitlines()[-1]


def test_a_second_hand_of_one_state_does_not_start(hand: RunningHand) -> None:
    """Two hands would restore each other's leases; the second says so, exits with 2, and the first goes on."""
    sentence = start_second(hand, socket="other.sock")

    assert sentence.startswith(f"hand: cannot start: another hand runs with the state folder {hand.folder / 'state'}")
    assert hand.request_result("hello")["version"]


def test_a_second_hand_of_one_socket_does_not_start(hand: RunningHand) -> None:
    """It would take the callers of the first, whose leases it does not know."""
    assert "another hand listens on" in start_second(hand, state="other")
    assert hand.request_result("hello")["version"]


def test_a_socket_that_another_program_listens_on_is_not_taken(folder: Path) -> None:
    """systemd listens for a hand that does not run yet, and holds no lock."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "hand.sock"))
        listener.listen()
        with pytest.raises(AssertionError, match="another hand listens on"):
            RunningHand(folder)


def test_a_file_in_the_place_of_the_socket_is_not_removed(folder: Path) -> None:
    """A path that was mistyped must not cost a file."""
    (folder / "hand.sock").write_text("precious")
    with pytest.raises(AssertionError, match="is no socket; remove it, or set --socket"):
        RunningHand(folder)

    assert (folder / "hand.sock").read_text() == "precious"


def test_a_killed_hands_socket_and_state_are_taken_over(hand: RunningHand) -> None:
    """The kernel releases the locks of a process that ends, however it ends."""
    hand.kill()
    hand.start()

    assert hand.request_result("hello")["version"]


def test_a_listener_that_has_hung_up_callers_goes_on(folder: Path) -> None:
    """300 callers that connect and leave at once, with every slot in use, do not end the accept loop."""
    hand = RunningHand(folder)
    held = [hand.connect() for _ in range(8)]
    for connection in held:
        connection.sendall(b'{"verb": "hello"}\n')
        assert connection.recv(1 << 16)
    for _ in range(300):
        try:
            hand.connect().close()
        except BlockingIOError:
            continue  # as many wait to be accepted as the hand allows
    for connection in held:
        connection.close()

    wait_until(lambda: is_served(hand))
    assert hand.terminate() == 0


def is_served(hand: RunningHand) -> bool:
    """True once the hand has refused the callers before, and a slot is free."""
    with contextlib.suppress(BlockingIOError):  # as many wait to be accepted as the hand allows
        return bool(hand.request("hello")["ok"])
    return False


def test_a_host_without_threads_does_not_end_the_accept_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that no thread can serve is refused in a sentence, and the next one is served."""
    server = HandServer(create_listener(tmp_path / "s"), HandConfig(), Service(None, print), lambda _: None)  # type: ignore[arg-type]  # no request comes to the service
    accepting = threading.Thread(target=server.serve)
    accepting.start()

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        first = ask_nothing(tmp_path / "s")
    second = ask_nothing(tmp_path / "s")
    server.close()
    accepting.join(20)

    assert "the host has no thread left" in first
    assert "may not use this hand" in second
    assert not accepting.is_alive()


def ask_nothing(path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        with connection.makefile() as lines:
            return lines.readline()


@pytest.fixture(name="deep_folder")
def _deep_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "above" / "state"
    folder.mkdir(parents=True, mode=0o700)
    return folder


def describe_refusal(folder: Path) -> str:
    """Returns what the hand finds in the way; the agent finds the same."""
    found = find_changeable(folder)
    try:
        check_owners(folder)
    except HandError as error:
        assert found in str(error)
        return found
    assert found == ""
    return ""


def test_a_state_that_only_this_user_can_change_is_taken(deep_folder: Path) -> None:
    """Folders that do not exist yet, and links that lead into a folder of this user, are no fault."""
    link = deep_folder.parent.parent / "link"
    link.symlink_to(deep_folder)

    assert describe_refusal(deep_folder) == ""
    assert describe_refusal(deep_folder / "new" / "newer") == ""
    assert describe_refusal(link) == ""


@needs_root
@pytest.mark.parametrize("part", ["above/state", "above", "above/state/leases.json"])
def test_a_state_of_another_user_is_refused(deep_folder: Path, part: str) -> None:
    """The owner of any folder on the way, or of the leases, decides what the hand restores."""
    (deep_folder / "leases.json").write_text("{}")
    foreign = deep_folder.parent.parent / part
    os.chown(foreign, 12345, 12345)

    assert describe_refusal(deep_folder / "leases.json").startswith(f"{foreign} (user 12345, mode ")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_state_that_others_may_write_is_refused(deep_folder: Path, mode: int) -> None:
    """Whoever can write a folder can put another file under the name of the leases."""
    deep_folder.parent.chmod(mode)

    assert describe_refusal(deep_folder) == f"{deep_folder.parent} (user {os.geteuid()}, mode {mode:o})"


def test_a_shared_folder_is_allowed_on_the_way_but_not_at_its_end(deep_folder: Path) -> None:
    """In /tmp everybody may write, and rename only what is their own."""
    deep_folder.parent.chmod(0o1777)
    assert describe_refusal(deep_folder) == ""

    deep_folder.chmod(0o1777)
    assert describe_refusal(deep_folder) != ""


@needs_root
def test_a_link_of_another_user_is_refused(deep_folder: Path) -> None:
    """Its owner can make it lead elsewhere at any time."""
    link = deep_folder.parent.parent / "link"
    link.symlink_to(deep_folder)
    os.chown(link, 12345, 12345, follow_symlinks=False)

    assert describe_refusal(link).startswith(f"{link} (user 12345")


@needs_root
def test_the_hand_does_not_start_with_a_state_of_another_user(folder: Path) -> None:
    """The process ends with the reason, and the folder on the way by name."""
    (folder / "state").mkdir()
    os.chown(folder / "state", 12345, 12345)
    with pytest.raises(AssertionError, match=r"can be changed by others, through .*/state \(user 12345"):
        RunningHand(folder)


@needs_root
def test_the_agent_does_not_start_its_own_hand_with_a_state_of_another_user(tmp_path: Path) -> None:
    """`run --hand direct` as root ends with one sentence; the journal in that folder would be a stranger's too."""
    import subprocess
    import sys

    from tests.hand.conftest import HOUSE

    os.chown(tmp_path, 12345, 12345)
    (tmp_path / "steadytok.yml").write_text(f"state: {{dir: {tmp_path}/state}}\n")
    command = [sys.executable, "-m", "agent", "run", "--plain", "--hand", "direct", "--config", "steadytok.yml"]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(HOUSE)}, capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 1
    assert f"others can change {tmp_path} (user 12345, mode 700); set state.dir to a folder" in result.stderr
