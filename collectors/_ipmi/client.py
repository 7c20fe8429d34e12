"""
The door to a BMC: one request at a time, and only requests that read.

IPMI 2.0: https://www.intel.com/content/dam/www/public/us/en/documents/product-briefs/ipmi-second-gen-interface-spec-v2-rev1-1.pdf
Under a root that is not `/` the BMC is a picture of one, the file dev/ipmi0: lines `REQUEST: ANSWER` in hexadecimal,
network function, command, LUN and data before the colon, completion code and data behind it.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from collectors._host.host import Host

DEVICES = ("dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0")
NOT_PRESENT = 0xCB  # completion code: the sensor, record or file that was asked for is not there
_NO_SUCH_COMMAND = 0xC1


class IpmiRequest(Enum):
    """All that is ever sent once there is a session: network function and command, each of which only reads."""

    GET_DEVICE_ID = (0x06, 0x01)
    GET_SENSOR_READING = (0x04, 0x2D)
    GET_SENSOR_READING_FACTORS = (0x04, 0x23)  # of the rare sensor whose SDR says that its factors must be asked for
    GET_SDR_REPOSITORY_INFO = (0x0A, 0x20)
    RESERVE_SDR_REPOSITORY = (0x0A, 0x22)  # what reading a record in parts needs
    GET_SDR = (0x0A, 0x23)
    GET_DEVICE_SDR_INFO = (0x04, 0x20)
    GET_DEVICE_SDR = (0x04, 0x21)
    RESERVE_DEVICE_SDR = (0x04, 0x22)
    GET_SEL_INFO = (0x0A, 0x40)
    GET_SEL_ENTRY = (0x0A, 0x43)


class BmcError(Exception):
    """The BMC did not do its part, in one sentence; the session is not to be used any more."""


class LoginRefusedError(BmcError):
    """The BMC refused the user or the password."""


class CompletionCodeError(Exception):
    """The BMC answered that it will not or cannot; the session is well."""

    def __init__(self, request: IpmiRequest, code: int) -> None:
        super().__init__(f"{request.name.replace('_', ' ').capitalize()} was answered with code 0x{code:02X}")
        self.code = code


class Transport(Protocol):
    """What carries requests to one BMC; `ask` gives completion code and data, and raises BmcError."""

    def ask(self, netfn: int, command: int, data: bytes, lun: int) -> tuple[int, bytes]: ...

    def close(self) -> None: ...


class Bmc:
    """A BMC that answers; `name` is how notes call it."""

    def __init__(self, transport: Transport, name: str) -> None:
        self.name = name
        self._transport = transport
        self.identity = self.ask(IpmiRequest.GET_DEVICE_ID, min_bytes=6)

    def ask(self, request: IpmiRequest, data: bytes = b"", *, lun: int = 0, min_bytes: int = 0) -> bytes:
        """The answer's data, at least so many bytes. Raises CodeError, and BmcError where the session is lost."""
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
    """A BMC that is a file of requests and their answers."""

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
            raise BmcError("the picture of a BMC holds no answers")

    def ask(self, netfn: int, command: int, data: bytes, lun: int) -> tuple[int, bytes]:
        answer = self._answers.get(bytes((netfn, command, lun, *data)).hex(), bytes((_NO_SUCH_COMMAND,)))
        return (answer[0], answer[1:]) if answer else (0xFF, b"")

    def close(self) -> None:
        """Nothing is open."""
