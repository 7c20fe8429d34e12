"""The kernel says who listens where."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.runtime.listening_sockets import find_listener_users

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
TAIL = "00000000:00000000 00:00000000 00000000"


def write_tables(proc: Path, tcp: str, tcp6: str = "") -> Path:
    (proc / "net").mkdir()
    (proc / "net/tcp").write_text(HEAD + tcp)
    (proc / "net/tcp6").write_text(HEAD + tcp6)
    return proc


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_our_own_socket_is_ours(address: str) -> None:
    """A socket of this process has its user, at its own address and at that of all."""
    with socket.create_server((address, 0)) as server:
        assert find_listener_users("127.0.0.1", server.getsockname()[1]) == {os.geteuid()}


def test_users_of_one_port_are_told_apart(tmp_path: Path) -> None:
    """Only sockets that listen, at that port, and at that address or at all, count."""
    proc = write_tables(
        tmp_path,
        f"   0: 0100007F:2659 00000000:0000 0A {TAIL}  1000        0 1\n"  # 127.0.0.1:9817
        f"   1: 0200007F:2659 00000000:0000 0A {TAIL}  1001        0 1\n"  # 127.0.0.2:9817
        f"   2: 0100007F:265A 00000000:0000 0A {TAIL}  1002        0 1\n"  # 127.0.0.1:9818
        f"   3: 0100007F:2659 0100007F:9999 01 {TAIL}  1003        0 1\n"  # a connection
        "   4: nonsense\n",
        f"   0: 00000000000000000000000000000000:2659 {'0' * 32}:0000 0A {TAIL}  1004        0 1\n"  # [::]:9817
        f"   1: 00000000000000000000000001000000:2659 {'0' * 32}:0000 0A {TAIL}  1005        0 1\n",  # [::1]:9817
    )

    assert find_listener_users("127.0.0.1", 9817, proc) == {1000, 1004}
    assert find_listener_users("::1", 9817, proc) == {1004, 1005}
    assert find_listener_users("127.0.0.1", 1, proc) == set()


def test_without_the_tables_nobody_is_known(tmp_path: Path) -> None:
    """A container may hide them; a name may have no address."""
    assert find_listener_users("127.0.0.1", 9817, tmp_path) == set()
    assert find_listener_users("nowhere.invalid", 9817) == set()
