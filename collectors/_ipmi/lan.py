"""
The way to a BMC over the LAN: an RMCP+ session of pyghmi, with its traps guarded; docs/upstream.md has each of them.

pyghmi keeps one socket for all sessions of a process, which outlasts each of them.
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

LIMIT = 5.0  # seconds for one request, three transmissions included; pyghmi's own is 22 to 29
LOG_IN = 6.0  # seconds for a log-in, which takes ten round trips
_POLL = 0.2  # seconds; how often a log-in looks whether its time is over
_USER = 2  # the privilege level that reading needs; pyghmi's default is administrator
_REFUSED = ("Incorrect password", "Unauthorized", "Invalid role", "Invalid username", "Invalid integrity check")
_deadline = threading.local()


class Lan:
    """One session, logged in."""

    def __init__(self, address: str, port: int, user: str, password: str) -> None:
        """Raises RefusedError, and BmcError where there is no answer or no such host."""
        _patch_pyghmi_wait()
        _deadline.until = time.monotonic() + LOG_IN
        logon_results: list[dict[str, Any]] = []
        # Bytes: with text pyghmi loses track of its sessions, and never reconnects in the life of the process.
        credentials = (user.encode(), password.encode())
        try:
            self._session = session.Session(
                address, *credentials, port=port, privlevel=_USER, onlogon=logon_results.append
            )
            while not logon_results and time.monotonic() < _deadline.until:
                session.Session.wait_for_rsp(timeout=_POLL)
        except Exception as error:  # a BMC that answers nonsense: struct.error, IndexError, ValueError from AES …
            _forget_login(address, port, *credentials)
            raise BmcError(_describe_error(error, LOG_IN)) from error
        self._close = weakref.finalize(self, _log_out, self._session)  # also when the process ends
        reason = str(logon_results[0].get("error", "")) if logon_results else "timeout"
        if reason:
            self.close()
            raise _login_error(reason)
        self._session.logontries = 0  # else pyghmi logs in again by itself, and uncounted

    def ask(self, netfn: int, command: int, data: bytes, lun: int) -> tuple[int, bytes]:
        _deadline.until = time.monotonic() + LIMIT
        try:
            answer = self._session.raw_command(netfn, command, data=data, rslun=lun)
            session.sessionqueue.clear()  # gets an entry for each packet, and is emptied by nobody
            return int(answer["code"]), bytes(answer["data"])
        except Exception as error:  # as above; and a time-out of pyghmi's own is a KeyError
            raise BmcError(_describe_error(error, LIMIT)) from error

    def close(self) -> None:
        self._close()


def _patch_pyghmi_wait() -> None:
    """
    Has pyghmi wait in the thread that asks, and no longer than it may.

    Its own thread for the sockets misses a waiter who comes after his answer, who then sleeps for up to a second; it
    costs two switches of threads for each command; and a BMC that hangs holds its caller for 29 seconds.
    """
    if session._io_wait is not _wait:
        session._io_wait = _wait
        session.iothread, session.iothreadready = "none: _wait does its work", True


def _wait(timeout: float, myaddr: object = None, evq: object = None) -> None:
    """In place of pyghmi's `_io_wait`: takes in what comes until the time is over; its callers look, and come again."""
    remaining = _deadline.until - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    if select.select(session.iosockets, (), (), max(0.0, min(timeout, remaining)))[0]:
        session._io_graball(session.iosockets, {})


def _log_out(lan_session: Any) -> None:
    """Says good-bye once, without waiting for an answer, and frees the session's place on the socket."""
    _deadline.until = time.monotonic() + _POLL
    lan_session.incommand = False  # else the next one waits for the one that was given up
    try:
        lan_session._mark_broken("closed")
    except Exception:  # it is over either way
        lan_session.logged = 0


def _forget_login(address: str, port: int, user: bytes, password: bytes) -> None:
    """A log-in that broke off stays in pyghmi's list, and would be handed out, never to end, at the next one."""
    session.Session.initting_sessions.pop((address, user, password, port, None), None)


def _login_error(reason: str) -> BmcError:
    if reason.startswith(_REFUSED):
        return LoginRefusedError(f"the BMC refused the log-in: {reason}")
    return BmcError(f"no answer within {LOG_IN:g} s" if reason == "timeout" else f"no log-in: {reason}")


def _describe_error(error: Exception, limit: float) -> str:
    if isinstance(error, socket.gaierror):
        return f"no such host: {error.strerror}"
    if isinstance(error, TimeoutError) or str(error) in ("None", "timeout", "'command'"):
        return f"no answer within {limit:g} s"
    if isinstance(error, session.exc.IpmiException):
        return str(error)
    return f"not understood ({type(error).__name__}: {error})"
