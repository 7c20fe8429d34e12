"""What both sides of TLS share: the names of its versions, and how a key is loaded."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping

from agent.config.schema import TlsVersion

VERSIONS: Mapping[TlsVersion, ssl.TLSVersion] = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


def set_version_bounds(context: ssl.SSLContext, minimum: TlsVersion, maximum: TlsVersion) -> None:
    """Speaks these versions and none beside them."""
    context.minimum_version, context.maximum_version = VERSIONS[minimum], VERSIONS[maximum]


def load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    """Shows this certificate. Raises OSError, also for a key with a password: it would be asked for on the terminal."""
    context.load_cert_chain(certificate, key, password=lambda: "")


@contextlib.contextmanager
def as_file_path(text: str | None, file: str | None) -> Iterator[str | None]:
    """The file's path, or for the time being one of the text, in memory: OpenSSL takes a key from a file alone."""
    if text is None:
        yield file
        return
    with os.fdopen(os.memfd_create("pem"), "wb") as memory:
        memory.write(text.encode())
        memory.flush()
        yield f"/proc/self/fd/{memory.fileno()}"
