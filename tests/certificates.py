"""Certificates of an authority, servers and clients for tests, made by the openssl command."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import processes


def create_authority(folder: Path) -> Path:
    """Creates a self-signed authority; returns its certificate, which lies beside its key."""
    certificate = folder / "ca.crt"
    _openssl(
        "req", "-x509", *_new_key(folder / "ca.key"), "-subj", "/CN=test authority", "-days", "2", "-out", certificate
    )
    return certificate


def create_certificate(folder: Path, name: str, alternative: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path]:
    """Creates a certificate of that authority; returns it and its key."""
    certificate, key, request = (folder / f"{name}.{kind}" for kind in ("crt", "key", "csr"))
    extension = folder / f"{name}.ext"
    extension.write_text(f"subjectAltName={alternative}\n")
    _openssl("req", *_new_key(key), "-subj", f"/CN={name}", "-out", request)
    signer = ("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial")
    _openssl("x509", "-req", "-in", request, *signer, "-days", "2", "-extfile", extension, "-out", certificate)
    return certificate, key


def _new_key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run([processes.require_program("openssl"), *map(str, arguments)], check=True, capture_output=True)
