"""
Talks to a BMC over the LAN: an RMCP+ session of pyghmi, with workarounds for pyghmi's faults (docs/upstream.md).

pyghmi keeps one socket for all sessions of a process, which outlasts every session.
"""

from __future__ import annotations

import select
import socket
import threading
import time
import weakref
from typing import Any

from pyghmi.ipmi.private import session

from collectors._ipmi.client import BmcError, LoginRefusedError

MAX_REQUEST_SECONDS = 5.0  # seconds for one request, three transmissions included; pyghmi's own limit is 22 to 29
MAX_LOGIN_SECONDS = 6.0  # seconds for a log-in of ten round trips
_POLL_SECONDS = 0.2  # seconds between two checks of a log-in's deadline
_USER = 2  # the privilege level for reading; pyghmi's default is administrator
_REFUSED = ("Incorrect password", "Unauthorized", "Invalid role", "Invalid username", "Invalid integrity check")
_deadline = threading.local()


class Lan:
    """One session, logged in."""

    def __init__(self, address: str, port: int, user: str, password: str) -> None:
        """Raises LoginRefusedError, and BmcError where there is no answer or no such host."""
        _patch_pyghmi_wait()
        _deadline.until = time.monotonic() + MAX_LOGIN_SECONDS
        logon_results: list[dict[str, Any]] = []
        # Bytes: with text pyghmi loses track of its sessions and never reconnects as long as the process runs.
        credentials = (user.encode(), password.encode())
        try:
            self._session = session.Session(
                address, *credentials, port=port, privlevel=_USER, onlogon=logon_results.append
            )
            while not logon_results and time.monotonic() < _deadline.until:
                session.Session.wait_for_rsp(timeout=_POLL_SECONDS)
        except Exception as error:  # nonsense from the BMC: struct.error, IndexError, ValueError from AES …
            _forget_login(address, port, *credentials)
            raise BmcError(_describe_error(error, MAX_LOGIN_SECONDS)) from error
        self._close = weakref.finalize(self, _log_out, self._session)  # also when the process ends
        reason = str(logon_results[0].get("error", "")) if logon_results else "timeout"
        if reason:
            self.close()
            raise _make_login_error(reason)
        self._session.logontries = 0  # otherwise pyghmi logs in again by itself, uncounted

    def ask(self, netfn: int, command: int, data: bytes, lun: int) -> tuple[int, bytes]:
        _deadline.until = time.monotonic() + MAX_REQUEST_SECONDS
        try:
            answer = self._session.raw_command(netfn, command, data=data, rslun=lun)
            session.sessionqueue.clear()  # grows by an entry for each packet; pyghmi never empties it
            return int(answer["code"]), bytes(answer["data"])
        except Exception as error:  # as above; pyghmi's own time-out is a KeyError
            raise BmcError(_describe_error(error, MAX_REQUEST_SECONDS)) from error

    def close(self) -> None:
        self._close()


def _patch_pyghmi_wait() -> None:
    """
    Makes pyghmi wait in the calling thread, and no longer than the deadline.

    pyghmi's own socket thread has three faults. It misses a caller that starts to wait after the answer came; that
    caller then sleeps for up to a second. It costs two thread switches for each command. A BMC that hangs blocks the
    caller for 29 seconds.
    """
    if session._io_wait is not _wait:
        session._io_wait = _wait
        session.iothread, session.iothreadready = "none: _wait does its work", True


def _wait(timeout: float, myaddr: object = None, evq: object = None) -> None:
    """Replaces pyghmi's `_io_wait`: receives packets until the time is over; its callers check and call again."""
    remaining = _deadline.until - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    if select.select(session.iosockets, (), (), max(0.0, min(timeout, remaining)))[0]:
        session._io_graball(session.iosockets, {})


def _log_out(lan_session: Any) -> None:
    """Sends one close request without waiting for an answer, and frees the session's entry on the socket."""
    _deadline.until = time.monotonic() + _POLL_SECONDS
    lan_session.incommand = False  # otherwise the close request waits for the abandoned command
    try:
        lan_session._mark_broken("closed")
    except Exception:  # the session is over either way
        lan_session.logged = 0


def _forget_login(address: str, port: int, user: bytes, password: bytes) -> None:
    """Removes a broken-off log-in from pyghmi's list, since the next log-in would reuse it and never finish."""
    session.Session.initting_sessions.pop((address, user, password, port, None), None)


def _make_login_error(reason: str) -> BmcError:
    if reason.startswith(_REFUSED):
        return LoginRefusedError(f"the BMC refused the log-in: {reason}")
    return BmcError(f"no answer within {MAX_LOGIN_SECONDS:g} s" if reason == "timeout" else f"no log-in: {reason}")


def _describe_error(error: Exception, limit: float) -> str:
    if isinstance(error, socket.gaierror):
        return f"no such host: {error.strerror}"
    if isinstance(error, TimeoutError) or str(error) in ("None", "timeout", "'command'"):
        return f"no answer within {limit:g} s"
    if isinstance(error, session.exc.IpmiException):
        return str(error)
    return f"malformed answer ({type(error).__name__}: {error})"
