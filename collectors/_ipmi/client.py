"""
Sends requests to a BMC, one at a time, and only requests that read.

IPMI 2.0:
https://www.intel.com/content/dam/www/public/us/en/documents/product-briefs/ipmi-second-gen-interface-spec-v2-rev1-1.pdf

Under a root that is not `/` the BMC is a recording, the file dev/ipmi0: lines `REQUEST: ANSWER` in hexadecimal. The
request is network function, command, LUN and data; the answer is completion code and data.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from collectors._host.host import Host

DEVICES = ("dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0")
NOT_PRESENT = 0xCB  # completion code: the requested sensor, record or file does not exist
_NO_SUCH_COMMAND = 0xC1


class IpmiRequest(Enum):
    """All requests that are sent within a session: network function and command, each of which only reads."""

    GET_DEVICE_ID = (0x06, 0x01)
    GET_SENSOR_READING = (0x04, 0x2D)
    GET_SENSOR_READING_FACTORS = (0x04, 0x23)  # for the rare sensor whose SDR carries no factors
    GET_SDR_REPOSITORY_INFO = (0x0A, 0x20)
    RESERVE_SDR_REPOSITORY = (0x0A, 0x22)  # required for reading a record in parts
    GET_SDR = (0x0A, 0x23)
    GET_DEVICE_SDR_INFO = (0x04, 0x20)
    GET_DEVICE_SDR = (0x04, 0x21)
    RESERVE_DEVICE_SDR = (0x04, 0x22)
    GET_SEL_INFO = (0x0A, 0x40)
    GET_SEL_ENTRY = (0x0A, 0x43)


class BmcError(Exception):
    """The BMC or the session failed, in one sentence; the session must not be used any more."""


class LoginRefusedError(BmcError):
    """The BMC refused the user or the password."""


class CompletionCodeError(Exception):
    """The BMC refused or could not serve one request; the session remains usable."""

    def __init__(self, request: IpmiRequest, code: int) -> None:
        super().__init__(f"{request.name.replace('_', ' ').capitalize()} was answered with code 0x{code:02X}")
        self.code = code


class Transport(Protocol):
    """Carries requests to one BMC; `ask` returns completion code and data, and raises BmcError."""

    def ask(self, netfn: int, command: int, data: bytes, lun: int) -> tuple[int, bytes]: ...

    def close(self) -> None: ...


class Bmc:
    """A BMC that answers; `name` is its name in notes."""

    def __init__(self, transport: Transport, name: str) -> None:
        self.name = name
        self._transport = transport
        self.identity = self.ask(IpmiRequest.GET_DEVICE_ID, min_bytes=6)

    def ask(self, request: IpmiRequest, data: bytes = b"", *, lun: int = 0, min_bytes: int = 0) -> bytes:
        """
        Returns the answer's data, at least `min_bytes` of it.

        Raises CompletionCodeError, and BmcError where the session is lost.
        """
        code, answer = self._transport.ask(*request.value, data, lun)
        if code != 0:
            raise CompletionCodeError(request, code)
        if len(answer) < min_bytes:
            raise BmcError(
                f"expected at least {min_bytes} bytes from {request.name}, found {answer.hex(' ') or 'none'}"
            )
        return answer

    def close(self) -> None:
        """Ends the session."""
        self._transport.close()


class ReplayTransport:
    """Answers from a file of requests and their answers."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._answers: dict[str, bytes] = {}
        for line in host.lines(DEVICES[0]):
            request, _, answer = line.partition(":")
            try:
                self._answers[bytes.fromhex(request).hex()] = bytes.fromhex(answer)
            except ValueError:
                host.note(DEVICES[0], f"expected a line such as 062000: 00 20 01, found {line[:40]!r}")
        if not self._answers:
            raise BmcError("the recording of a BMC holds no answers")

    def ask(self, netfn: int, command: int, data: bytes, lun: int) -> tuple[int, bytes]:
        answer = self._answers.get(bytes((netfn, command, lun, *data)).hex(), bytes((_NO_SUCH_COMMAND,)))
        return (answer[0], answer[1:]) if answer else (0xFF, b"")

    def close(self) -> None:
        """Does nothing: no session is open."""
