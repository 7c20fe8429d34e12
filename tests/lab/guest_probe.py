"""
Tries everything that the daemon's sandbox must prevent; writes the outcomes to probe.json.

lab-probe.service runs it, which is steadytok.service with this program. Nothing is judged here.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STATE = Path(os.environ["STATE_DIRECTORY"])
MANAGER, STRANGER, NAMED = "192.0.2.10", "192.0.2.66", 9093


def outcome(attempt: Callable[[], object]) -> str:
    """Returns `done`, or the name of the error."""
    try:
        attempt()
    except OSError as error:
        return type(error).__name__ if error.errno is None else os.strerror(error.errno)
    except Exception as error:  # any error means that the attempt failed
        return type(error).__name__
    return "done"


def walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder that can be listed, with the names of its files."""
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if f"{folder}/{name}" not in ("//proc", "//sys")]
        yield folder, names


def list_written() -> list[str]:
    """Returns the folders in which a file can be made, and the files that can be written."""
    paths = []
    for folder, names in walk("/"):
        path = os.path.join(folder, "lab-probe")
        if outcome(lambda path=path: Path(path).touch(exist_ok=False)) == "done":
            paths.append(folder)
            os.unlink(path)
        for name in names:
            path = os.path.join(folder, name)
            if os.access(path, os.W_OK) and stat.S_ISREG(os.lstat(path).st_mode):
                paths.append(path)
    return paths


def list_kernel_written() -> list[str]:
    """Returns the files of /proc/sys and /sys that can be written."""
    writable = []
    for top in ("/proc/sys", "/sys"):
        for folder, _, names in os.walk(top):
            paths = (f"{folder}/{name}" for name in names)
            # Regular files only: AppArmor has a /dev/null of its own there.
            writable += [path for path in paths if stat.S_ISREG(os.lstat(path).st_mode) and os.access(path, os.W_OK)]
    return writable


def list_executable() -> list[str]:
    """Returns the files that the kernel would execute; access(2) takes noexec mounts into account."""
    return [
        path
        for folder, names in walk("/")
        for name in names
        if os.path.isfile(path := os.path.join(folder, name)) and os.access(path, os.X_OK)
    ]


def try_executing() -> dict[str, str]:
    """Returns the outcomes of starting programs in several ways."""
    program = STATE / "own"
    program.write_text("#!/opt/steadytok/current/bin/python\n")
    program.chmod(0o755)
    loader = next(path for path in list_executable() if "/ld-linux" in path or "/ld-2" in path)
    ways = {
        "shell": ["/bin/sh", "-c", "true"],
        "su": ["/bin/su", "--version"],
        "own file": [str(program)],
        "by the loader": [loader, "/bin/true"],
        "interpreter": [sys.executable, "-c", "pass"],
    }
    outcomes = {name: outcome(lambda way=way: subprocess.run(way, check=True)) for name, way in ways.items()}
    program.unlink()
    return {**outcomes, "from memory": outcome(_from_memory)}


def _from_memory() -> None:
    """Executes a file in memory, which is on no mount and so on no noexec mount."""
    file = os.memfd_create("own")
    os.write(file, Path("/bin/true").read_bytes())
    subprocess.run([f"/proc/self/fd/{file}"], check=True, pass_fds=[file])


def try_devices() -> dict[str, str]:
    """Returns the outcomes of opening each device, and of making one."""
    outcomes = {}
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                continue  # to another device, or to one of our descriptors
            if stat.S_ISCHR(mode := os.stat(path).st_mode) or stat.S_ISBLK(mode):
                outcomes[path] = outcome(lambda path=path: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))
    node = STATE / "kmsg"
    outcomes["a node of our own"] = outcome(lambda: os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 11)))
    node.unlink(missing_ok=True)
    return outcomes


def try_processes() -> dict[str, Any]:
    """Returns the visible processes of others, and the outcomes of reading, signalling and tracing systemd."""
    libc = ctypes.CDLL(None, use_errno=True)
    visible = [
        name for name in os.listdir("/proc") if name.isdigit() and os.stat(f"/proc/{name}").st_uid != os.getuid()
    ]

    def trace() -> None:
        if libc.ptrace(16, 1, None, None):  # PTRACE_ATTACH
            raise OSError(ctypes.get_errno(), "ptrace")

    ways: dict[str, Callable[[], object]] = {
        "environment": lambda: Path("/proc/1/environ").read_bytes(),
        "maps": lambda: Path("/proc/1/maps").read_bytes(),
        "memory": lambda: open("/proc/1/mem", "rb").close(),
        "signal": lambda: os.kill(1, 0),
        "trace": trace,
    }
    return {"visible": visible, **{name: outcome(way) for name, way in ways.items()}}


def try_reaching() -> dict[str, str]:
    """Returns the outcomes of connections, a datagram and raw sockets."""

    def connect(host: str, port: int) -> Callable[[], object]:
        return lambda: socket.create_connection((host, port), timeout=5).close()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
            line.sendto(b"lab", (STRANGER, 9))

    return {
        "the manager": outcome(connect(MANAGER, NAMED)),
        "this host": outcome(connect("127.0.0.1", 9817)),
        "a stranger": outcome(connect(STRANGER, 8000)),
        "a stranger, by datagram": outcome(send),
        "raw": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()),
        "packets": outcome(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
        "virtual machines": outcome(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()),
    }


def read_rights() -> dict[str, str]:
    """Returns the capabilities in /proc/self/status, and the outcomes of reading secrets and of becoming root."""
    lines = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    rights = {name: lines[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")}
    for path in ("/etc/shadow", "/sys/firmware/dmi/tables/DMI", "/root", "/home"):
        rights[path] = outcome(lambda path=path: os.listdir(path) if os.path.isdir(path) else Path(path).read_bytes())
    rights["become root"] = outcome(lambda: os.setuid(0))
    return rights


def main() -> None:
    """Tries everything, and writes the outcomes."""
    attempts: dict[str, Callable[[], object]] = {
        "written": list_written,
        "kernel_written": list_kernel_written,
        "executable": list_executable,
        "executed": try_executing,
        "devices": try_devices,
        "processes": try_processes,
        "reached": try_reaching,
        "rights": read_rights,
    }
    tried = {name: attempt() for name, attempt in attempts.items()}
    (STATE / "probe.json").write_text(json.dumps(tried))


if __name__ == "__main__":
    main()
