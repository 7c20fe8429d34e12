"""
Opens the session with the configured BMC, and avoids being locked out.

BMCs lock an account after a few wrong passwords, which also locks out whoever repairs the host. After three refused
log-ins no further one is tried until the credentials file changes, in this process or a later one.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from collectors._host.files import means_absent
from collectors._host.host import Host
from collectors._host.regular_files import OPEN_TO_OTHERS, check_regular_file
from collectors._ipmi.client import (
    DEVICES,
    Bmc,
    BmcError,
    CompletionCodeError,
    LoginRefusedError,
    ReplayTransport,
    Transport,
)

PORT = 623
MAX_REFUSALS = 3
_CACHE_NAME = "ipmi-refused.json"
_MAX_CREDENTIAL_BYTES = 4096


class BmcCredentials(NamedTuple):
    """A user of the BMC; `file_version` distinguishes versions of the file without revealing its content."""

    user: str
    password: str
    file_version: str


class LoginRefusals(msgspec.Struct, frozen=True):
    """The number of times that the BMC refused the credentials in one version of the file."""

    address: str = ""
    file: str = ""
    times: int = 0


def open_bmc(host: Host, address: str, credentials_file: str | None) -> Bmc | None:
    """Returns the BMC; None without a note where this machine has none, None with a note where it should have one."""
    transport = None
    try:
        transport = _open_transport(host, address, credentials_file)
        return None if transport is None else Bmc(transport, _format_bmc_name(address))
    except (BmcError, CompletionCodeError) as error:
        if transport is not None:
            transport.close()
        return host.note(_format_bmc_name(address), str(error))


def _format_bmc_name(address: str) -> str:
    return DEVICES[0] if address == "local" else f"BMC {address}"


def _open_transport(host: Host, address: str, credentials_file: str | None) -> Transport | None:
    if address != "local" and host.live:
        return _open_lan(host, address, credentials_file)
    device = next(filter(host.exists, DEVICES), None)
    if device is None or not host.live:
        return None if device is None else ReplayTransport(host)
    from collectors._ipmi.inband import InBand  # pyghmi takes 55 ms to import

    try:
        return InBand(host.path(device))
    except OSError as error:  # ENODEV, ENXIO: the device outlives a BMC that the driver did not find
        return None if means_absent(error) else host.note_error(device, error)


def _open_lan(host: Host, address: str, credentials_file: str | None) -> Transport | None:
    endpoint = split_address(address)
    if endpoint is None:
        return host.note(f"BMC {address}", "expected local, HOST or HOST:PORT as collectors.ipmi.address")
    if credentials_file is None:
        return host.note(
            f"BMC {address}", "needs collectors.ipmi.credentials_file: two lines, username=… and password=…"
        )
    credentials = read_credentials(host, credentials_file)
    return None if credentials is None else _log_in(host, address, endpoint, credentials, credentials_file)


def _log_in(
    host: Host, address: str, endpoint: tuple[str, int], credentials: BmcCredentials, path: str
) -> Transport | None:
    refusals = _load_refusals(host, address, credentials.file_version)
    if refusals.times >= MAX_REFUSALS:
        reason = f"the BMC refused this user and password {MAX_REFUSALS} times; no further try until this file changes"
        return host.note(path, reason)
    from collectors._ipmi.lan import Lan  # as above

    try:
        lan = Lan(*endpoint, credentials.user, credentials.password)
    except LoginRefusedError as error:
        times = refusals.times + 1
        _save_refusals(host, msgspec.structs.replace(refusals, times=times))
        return host.note(path, f"{error} ({times} of {MAX_REFUSALS} tries)")
    if refusals.times:
        _save_refusals(host, msgspec.structs.replace(refusals, times=0))
    return lan


def _save_refusals(host: Host, refusals: LoginRefusals) -> None:
    host.cache.put(_CACHE_NAME, msgspec.json.encode(refusals).decode())


def _load_refusals(host: Host, address: str, file_version: str) -> LoginRefusals:
    text = host.cache.get(_CACHE_NAME)
    try:
        refusals = LoginRefusals() if text is None else msgspec.json.decode(text, type=LoginRefusals)
    except msgspec.MsgspecError:
        refusals = LoginRefusals()  # a damaged file counts as absent
    return (
        refusals
        if (refusals.address, refusals.file) == (address, file_version)
        else LoginRefusals(address, file_version)
    )


def split_address(address: str) -> tuple[str, int] | None:
    """Splits HOST, HOST:PORT or [IPV6]:PORT into host and port; returns None for any other text."""
    host, colon, port = address.rpartition(":")
    if not colon or (address.count(":") > 1 and not host.endswith("]")):
        host, port = address, str(PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    return host, int(port)


def read_credentials(host: Host, path: str) -> BmcCredentials | None:
    """
    Returns the user and password from the file's lines `username=…` and `password=…`, or None with a note.

    The format is mount.cifs(8)'s. No note contains any of the content. A file that others may read or write is refused.
    """
    try:
        status = check_regular_file(host.path(path), _MAX_CREDENTIAL_BYTES)
    except OSError as error:
        return host.note(path, error.strerror or str(error))
    if status.st_mode & OPEN_TO_OTHERS:
        return host.note(
            path, "others may read or write the password; chmod 640 it, with root:steadytok-eye for the service"
        )
    pairs = dict(line.split("=", 1) for line in host.lines(path) if "=" in line)
    user, password = pairs.get("username", ""), pairs.get("password", "")
    if not user or not password:
        return host.note(path, "expected two lines, username=… and password=…")
    return BmcCredentials(user, password, f"{status.st_mtime_ns}.{status.st_size}.{status.st_ino}")
