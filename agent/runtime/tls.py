"""TLS for servers and clients: the names of its versions, and loading a certificate with its key."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Literal

from collectors import check_regular_file

TlsVersion = Literal["TLS12", "TLS13"]
"""The names in Prometheus' configuration; older versions are broken."""

VERSIONS: Mapping[TlsVersion, ssl.TLSVersion] = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}

MAX_PEM_BYTES = 8 << 20  # of one file; the authorities of all browsers have some 220 KiB, and OpenSSL reads pipes too


def set_version_bounds(context: ssl.SSLContext, minimum: TlsVersion, maximum: TlsVersion) -> None:
    """Restricts the context to the versions from `minimum` to `maximum`."""
    context.minimum_version, context.maximum_version = VERSIONS[minimum], VERSIONS[maximum]


def load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    """
    Loads the certificate that this side presents, and its key.

    Raises OSError, also for an encrypted key: OpenSSL would prompt for its password on the terminal.
    """
    for file in filter(None, (certificate, key)):
        check_regular_file(file, MAX_PEM_BYTES)
    context.load_cert_chain(certificate, key, password=lambda: "")


def load_authorities(context: ssl.SSLContext, file: str) -> None:
    """Loads the certificates of the authorities that this side trusts. Raises OSError."""
    check_regular_file(file, MAX_PEM_BYTES)
    context.load_verify_locations(file)


@contextlib.contextmanager
def as_file_path(text: str | None, file: str | None) -> Iterator[str | None]:
    """Yields the path of a PEM text in memory, or of the file where there is no text: OpenSSL reads keys from files."""
    if text is None:
        yield file
        return
    with os.fdopen(os.memfd_create("pem"), "wb") as memory:
        memory.write(text.encode())
        memory.flush()
        yield f"/proc/self/fd/{memory.fileno()}"
