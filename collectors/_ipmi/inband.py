"""
Talks to this host's own BMC through /dev/ipmi0, the kernel's message interface.

https://docs.kernel.org/driver-api/ipmi.html
"""

from __future__ import annotations

import select

from pyghmi.ipmi.private import localsession

from collectors._ipmi.client import BmcError

MAX_REQUEST_SECONDS = 6.0  # seconds for one request; the kernel gives up after five and answers with code 0xC3


class InBand:
    """An open device. Closing it makes the kernel drop pending requests, so no late answer meets a later request."""

    def __init__(self, path: str) -> None:
        """Raises OSError where the device cannot be opened."""
        self._session = _Session(path)

    def ask(self, netfn: int, command: int, data: bytes, lun: int) -> tuple[int, bytes]:
        try:
            answer = self._session.raw_command(netfn, command, data=data, rslun=lun)
        except OSError as error:
            raise BmcError(f"the driver reports: {error.strerror or error}") from error
        return int(answer["code"]), bytes(answer["data"])

    def close(self) -> None:
        self._session.ipmidev.close()


class _Session(localsession.Session):  # type: ignore[misc]  # pyghmi ships no types
    """pyghmi's session with a limit on its wait, which is endless otherwise: docs/upstream.md."""

    def await_reply(self) -> None:
        if not select.select((self.ipmidev,), (), (), MAX_REQUEST_SECONDS)[0]:
            raise BmcError(f"no answer within {MAX_REQUEST_SECONDS:g} s")
