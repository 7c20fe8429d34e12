"""
Reads tokens, passwords and keys from files that only the right people can read and write.

A secret that others can read is none, and one that others can write is theirs. So a file is refused, and never used,
where everybody may read it, where others than its owner may write it, or where neither this user nor root owns it. Its
group may read it: root:steadytok with mode 640 is how a service gets a secret, and systemd's credentials are 440.
"""

from __future__ import annotations

import os
import stat

from collectors import check_regular_file, read_regular_file

SHORTEST_TOKEN = 16
"""Characters of a token that lets a client in; a shorter token can be guessed."""

_MAX_SECRET_BYTES = 4096
_MAX_KEY_BYTES = 1 << 20  # a private key with the certificates of its authorities
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class SecretFileError(ValueError):
    """The file holds no usable secret; the message says why and what to do, and nothing of the content."""


def read_secret(path: str | os.PathLike[str], shortest: int = 1) -> str:
    """Returns the only line of a file. Raises SecretFileError, or OSError where it cannot be read."""
    content = read_regular_file(path, _MAX_SECRET_BYTES)
    check_access(os.stat(path))
    return check_secret(content, shortest)


def check_key_file(path: str | os.PathLike[str]) -> None:
    """Checks a private key that a library is about to open. Raises SecretFileError or OSError."""
    check_access(check_regular_file(path, _MAX_KEY_BYTES))


def check_for_another_user(path: str | os.PathLike[str]) -> None:
    """Checks what a service will meet when it reads the file as its own user. Raises SecretFileError or OSError."""
    status = check_regular_file(path, _MAX_KEY_BYTES)
    check_mode(status)
    if status.st_size == 0:
        raise SecretFileError("it is empty")


def check_access(status: os.stat_result) -> None:
    """Raises SecretFileError for a file that strangers own, may read or may write."""
    if status.st_uid not in (0, os.geteuid()):
        raise SecretFileError(f"it belongs to the user {status.st_uid}; expected this user or root as its owner")
    check_mode(status)


def check_mode(status: os.stat_result) -> None:
    """Raises SecretFileError for a file that everybody may read or others may write, whoever owns it."""
    if status.st_mode & stat.S_IROTH:
        raise SecretFileError(f"everybody may read it (mode {status.st_mode & 0o777:o}); chmod 640 or 600 it")
    if status.st_mode & _OTHERS_MAY_WRITE:
        raise SecretFileError(f"others may write it (mode {status.st_mode & 0o777:o}); chmod 640 or 600 it")


def check_secret(content: bytes, shortest: int) -> str:
    """Returns the secret without white space around it. Raises SecretFileError for a text that can be none."""
    try:
        secret = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise SecretFileError("expected one line of text, found other bytes") from None
    if not secret:
        raise SecretFileError("it is empty; expected one line of text")
    if not secret.isprintable():
        raise SecretFileError("expected one line of text, found a line break or a control character in it")
    if len(secret) < shortest:
        raise SecretFileError(f"expected at least {shortest} characters")
    return secret
