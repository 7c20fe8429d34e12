"""
Sends messages to AMD EPYC's Host System Management Port, /dev/hsmp, one at a time for each socket.

https://docs.kernel.org/arch/x86/amd_hsmp.html; messages and their words: include/uapi/asm/amd_hsmp.h of the kernel. The
device is opened for reading, which everybody may; the driver then refuses every message that sets anything.

Under a root that is not `/` the port is a recording, the file dev/hsmp: lines `SOCKET MESSAGE [ARGUMENT]: WORD` in
hexadecimal.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from enum import Enum
from typing import NamedTuple, Protocol

from collectors._host.files import means_absent
from collectors._host.host import Host

PATH = "dev/hsmp"
_WORDS = 8  # HSMP_MAX_MSG_LEN
# struct hsmp_message, packed to 4: message, number of arguments, size of the answer, words, socket.
_MESSAGE = struct.Struct(f"=IHH{_WORDS}IH2x")
_READ_AND_WRITE, _BASE = 3, 0xF8  # _IOC_READ | _IOC_WRITE; HSMP_BASE_IOCTL_NR
COMMAND = _READ_AND_WRITE << 30 | _MESSAGE.size << 16 | _BASE << 8  # HSMP_IOCTL_CMD


class _MessageFormat(NamedTuple):
    """A message's number, and its exact counts of argument and answer words; the driver refuses other counts."""

    number: int
    arguments: int
    words: int


class HsmpMessage(Enum):
    """The messages that are sent; all of them read."""

    PROTOCOL_VERSION = _MessageFormat(0x03, 0, 1)
    SOCKET_POWER = _MessageFormat(0x04, 0, 1)
    PROCHOT = _MessageFormat(0x0B, 0, 1)
    DDR_BANDWIDTH = _MessageFormat(0x14, 0, 1)
    DIMM_TEMPERATURE_RANGE = _MessageFormat(0x16, 1, 1)
    DIMM_POWER = _MessageFormat(0x17, 1, 1)
    DIMM_THERMAL = _MessageFormat(0x18, 1, 1)


class Port(Protocol):
    """A port that answers messages."""

    def ask(self, socket: int, message: HsmpMessage, *arguments: int) -> int:
        """Returns the answer's first word. Raises OSError: ENODEV no such socket, ENOMSG no such message, ETIMEDOUT."""


class DevicePort:
    """The port of this machine; closes its descriptor when it is deleted."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def ask(self, socket: int, message: HsmpMessage, *arguments: int) -> int:
        buffer = bytearray(pack_message(socket, message, arguments))
        fcntl.ioctl(self._descriptor, COMMAND, buffer)
        return unpack_first_word(buffer)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class ReplayPort:
    """A port that answers from a file."""

    def __init__(self, host: Host) -> None:
        self._answers: dict[tuple[int, ...], int] = {}
        for line in host.lines(PATH, optional=True):
            request, _, answer = line.partition(":")
            try:
                key = tuple(int(word, 16) for word in request.split())
                self._answers[key] = int(answer.split()[0], 16)
            except (ValueError, IndexError):
                host.note(PATH, f"expected a line such as 0 18 80: 22000080, found {line[:40]!r}")
        self._sockets = {key[0] for key in self._answers if key}

    def ask(self, socket: int, message: HsmpMessage, *arguments: int) -> int:
        if socket not in self._sockets:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        answer = self._answers.get((socket, message.value.number, *arguments))
        if answer is None:
            code = errno.EINVAL if arguments else errno.ENOMSG
            raise OSError(code, os.strerror(code))
        return answer


def open_port(host: Host) -> Port | None:
    """Returns the port; None where there is none, or, with a note, where it may not be opened."""
    if not host.live:
        return ReplayPort(host) if host.exists(PATH) else None
    try:
        return DevicePort(host.path(PATH))
    except OSError as error:
        return None if means_absent(error) else host.note_error(PATH, error)


def pack_message(socket: int, message: HsmpMessage, arguments: tuple[int, ...]) -> bytes:
    """Packs a message for the driver."""
    number, count, words = message.value
    if len(arguments) != count:
        raise ValueError(f"{message.name} takes {count} words, got {len(arguments)}")
    return _MESSAGE.pack(number, count, words, *arguments, *(0,) * (_WORDS - count), socket)


def unpack_first_word(buffer: bytes | bytearray) -> int:
    """Unpacks the first word of the answer that the driver wrote over the message."""
    word: int = _MESSAGE.unpack(buffer)[3]
    return word
