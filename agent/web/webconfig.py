"""
Loads the web configuration file, in the format of Prometheus' own servers: TLS, users with bcrypt hashes, headers.

https://prometheus.io/docs/prometheus/latest/configuration/https/. A setting that Python's TLS cannot honour is refused
with a sentence, never ignored. The file and the files it names are checked each second, so a new certificate or
password needs no restart. A bad new file is logged and not used. The same holds for a file that would open a closed
agent: a file is empty for a moment while it is written.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from agent.config import loader
from agent.config.loader import ConfigError
from agent.config.schema import AgentConfig, ClientCertificate, Section
from agent.runtime.errors import describe_reason
from agent.runtime.tls import TlsVersion, load_authorities, load_certificate, set_version_bounds
from agent.storage.file_stamp import FileStamp, read_file_stamp
from agent.storage.secret_file import check_key_file

REQUIRE_CLIENT_CERT = "RequireAndVerifyClientCert"
CLIENT_AUTH_TYPES = ("NoClientCert", "VerifyClientCertIfGiven", REQUIRE_CLIENT_CERT)
HEADERS = (
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
)
"""The headers that `headers` may set, as in exporter-toolkit."""

MAX_BCRYPT_COST = 15
"""bcrypt's cost: each step doubles the time, and 15 takes about two seconds of one core for each new client."""

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
_SUITE = re.compile(r"TLS_(ECDHE_RSA|ECDHE_ECDSA|RSA)_WITH_(.+)", re.ASCII)
_PRINTABLE = re.compile(r"[\x20-\x7e]*", re.ASCII)

FileStamps = tuple[tuple[str, FileStamp], ...]
"""Paths with the stamps of their files."""


class TlsServer(Section, frozen=True):
    """The section `tls_server_config`: the certificate, the client authentication and the TLS options."""

    cert_file: str
    key_file: str
    client_auth_type: str = "NoClientCert"
    client_ca_file: str = ""
    client_allowed_sans: tuple[str, ...] = ()
    min_version: TlsVersion = "TLS12"
    max_version: TlsVersion = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: Annotated[tuple[str, ...], msgspec.Meta(max_length=1)] = ()


class HttpServer(Section, frozen=True):
    """The section `http_server_config`; `http2` has no effect, since the server speaks HTTP/1.1."""

    http2: bool = True
    headers: dict[str, str] = msgspec.field(default_factory=dict)


class WebConfig(Section, frozen=True):
    """The whole web configuration file."""

    tls_server_config: TlsServer | None = None
    http_server_config: HttpServer = HttpServer()
    basic_auth_users: dict[str, str] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class LoadedWebConfig:
    """A web configuration ready for use, with the stamps of its files when it was read."""

    settings: WebConfig = field(default_factory=WebConfig)
    context: ssl.SSLContext | None = None
    files: FileStamps = ()

    @property
    def has_changed(self) -> bool:
        """True after a file changed."""
        return any(read_file_stamp(name) != state for name, state in self.files)


def load_web_config(path: str | None, previous: LoadedWebConfig | None = None) -> LoadedWebConfig:
    """
    Reads and checks the file at `path`, and loads its certificates. Raises ConfigError with every fault.

    While the agent runs, `previous` is the configuration to replace. Lifting one of its restrictions is a fault too.
    """
    if path is None:
        return LoadedWebConfig()
    file_stamps = stamp_files(path)  # before reading: a write in the meantime is then seen as a change
    settings = _parse_web_config(loader.read_document(Path(path)), path)
    lifted = (
        []
        if previous is None
        else [name for name in _list_restrictions(previous.settings) if name not in _list_restrictions(settings)]
    )
    if lifted:
        raise ConfigError([f"{path}: expected {', '.join(lifted)}: only a restart can remove it"])
    tls = settings.tls_server_config
    return LoadedWebConfig(settings, None if tls is None else _build_server_context(path, tls), file_stamps)


def _list_restrictions(settings: WebConfig) -> list[str]:
    """Returns the keys in use that keep somebody out."""
    tls = settings.tls_server_config
    keys = [] if tls is None else ["tls_server_config", *_list_set_keys(tls, "client_ca_file", "client_allowed_sans")]
    return keys + _list_set_keys(settings, "basic_auth_users")


def _list_set_keys(section: Section, *names: str) -> list[str]:
    return [name for name in names if getattr(section, name)]


def uses_tls(path: str | None) -> bool:
    """True when a web configuration has TLS; `load_web_config` reports its faults."""
    try:
        return path is not None and bool(loader.read_document(Path(path)).get("tls_server_config"))
    except ConfigError:
        return False


def agent_url(config: AgentConfig) -> str:
    """Returns the URL that the agent's configuration has it listen at, without a slash at the end."""
    scheme = "https" if uses_tls(config.web.config) else "http"
    return f"{scheme}://{config.web.listen}"


def stamp_files(path: str) -> FileStamps:
    """Returns the stamps of the file and of the files it names, missing ones included."""
    own_stamp = (path, read_file_stamp(path))
    try:
        tls = _parse_web_config(loader.read_document(Path(path)), path).tls_server_config
    except ConfigError:
        return (own_stamp,)  # the fault is in the file itself
    names = [] if tls is None else filter(None, (tls.cert_file, tls.key_file, tls.client_ca_file))
    # Paths are relative to the file, as exporter-toolkit has them.
    return (
        own_stamp,
        *((named_path, read_file_stamp(named_path)) for named_path in (_resolve_path(path, name) for name in names)),
    )


def _resolve_path(path: str, name: str) -> str:
    return str(Path(path).parent / name)


def _parse_web_config(document: dict[str, Any], path: str) -> WebConfig:
    settings: WebConfig = loader.parse_section(WebConfig, document, path)
    faults = [f"{path}: {key}: {expected}" for key, expected in _find_faults(settings)]
    if faults:
        raise ConfigError(faults)
    return settings


def _find_faults(settings: WebConfig) -> Iterator[tuple[str, str]]:
    for name, password_hash in settings.basic_auth_users.items():
        match = _BCRYPT.fullmatch(password_hash)
        if not name or ":" in name:
            yield "$.basic_auth_users", f"expected names without a colon, found {name!r}"
        if match is None:
            yield f"$.basic_auth_users.{name}", "expected a bcrypt hash; `htpasswd -nBC 10 '' | tr -d ':'` makes one"
        elif not 4 <= int(match[1]) <= MAX_BCRYPT_COST:
            yield (
                f"$.basic_auth_users.{name}",
                f"expected a bcrypt cost of 4 to {MAX_BCRYPT_COST}, found {int(match[1])}",
            )
    for name, value in settings.http_server_config.headers.items():
        if name.title() not in {header.title() for header in HEADERS}:
            yield f"$.http_server_config.headers.{name}", f"expected one of {', '.join(HEADERS)}"
        if not _PRINTABLE.fullmatch(value):
            yield f"$.http_server_config.headers.{name}", "expected printable ASCII on one line"
    if settings.tls_server_config is not None:
        yield from _find_tls_faults(settings.tls_server_config)


def _find_tls_faults(tls: TlsServer) -> Iterator[tuple[str, str]]:
    key = "$.tls_server_config"
    if tls.client_auth_type not in CLIENT_AUTH_TYPES:
        hint = "a requested certificate is always verified"
        yield f"{key}.client_auth_type", f"expected {', '.join(CLIENT_AUTH_TYPES)}; {hint}"
    if (tls.client_auth_type != "NoClientCert") != bool(tls.client_ca_file):
        yield f"{key}.client_ca_file", "expected together with a client_auth_type that verifies, and only then"
    if tls.client_allowed_sans and tls.client_auth_type != REQUIRE_CLIENT_CERT:
        yield f"{key}.client_allowed_sans", f"expected client_auth_type: {REQUIRE_CLIENT_CERT} beside it"
    if tls.min_version > tls.max_version:
        yield f"{key}.min_version", f"expected no more than max_version ({tls.max_version})"
    for suite in tls.cipher_suites:
        if _to_openssl_name(suite) is None:
            yield f"{key}.cipher_suites", f"expected names such as TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, not {suite}"
    for curve in tls.curve_preferences:
        if curve not in _CURVES:
            yield f"{key}.curve_preferences", f"expected one of {', '.join(_CURVES)}, found {curve!r}"


def _to_openssl_name(suite: str) -> str | None:
    """Returns OpenSSL's name of a cipher suite; None for a suite that TLS 1.2 cannot use."""
    match = _SUITE.fullmatch(suite)
    if match is None:
        return None
    kind = "" if match[1] == "RSA" else match[1].replace("_", "-") + "-"
    cipher = re.sub(r"AES_(128|256)_(GCM|CBC)_(SHA\d*)", _format_aes, match[2])
    return kind + cipher.replace("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305").replace("_", "-")


def _format_aes(match: re.Match[str]) -> str:
    return f"AES{match[1]}-{'GCM-' if match[2] == 'GCM' else ''}{match[3]}"


def _build_server_context(path: str, tls: TlsServer) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    set_version_bounds(context, tls.min_version, tls.max_version)
    if not tls.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    key = "cipher_suites"
    try:
        if tls.cipher_suites:
            context.set_ciphers(":".join(filter(None, map(_to_openssl_name, tls.cipher_suites))))
        key = "curve_preferences"
        for curve in tls.curve_preferences:
            context.set_ecdh_curve(_CURVES[curve])
        key = "cert_file and key_file"
        check_key_file(_resolve_path(path, tls.key_file))
        load_certificate(context, _resolve_path(path, tls.cert_file), _resolve_path(path, tls.key_file))
        key = "client_ca_file"
        if tls.client_ca_file:
            load_authorities(context, _resolve_path(path, tls.client_ca_file))
            is_required = tls.client_auth_type == REQUIRE_CLIENT_CERT
            context.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = describe_reason(error)
        raise ConfigError([f"{path}: $.tls_server_config: {key}: cannot be used: {reason}"]) from error
    return context


def build_client_context(path: str, client_certificate: ClientCertificate | None) -> ssl.SSLContext:
    """
    Builds the TLS context of a command on this host; it trusts exactly the certificate that the file names.

    The command presents `client_certificate`. Without one it presents the agent's own certificate to an agent that
    requires any: that suffices when one authority signs for both sides. Raises ConfigError.
    """
    tls = _parse_web_config(loader.read_document(Path(path)), path).tls_server_config
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate itself is known, so its names add nothing
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if tls is None:
        return context
    source = f"{path}: its certificate"
    try:
        load_authorities(context, _resolve_path(path, tls.cert_file))
        if client_certificate is not None:
            source = "web.client_certificate"
            load_certificate(context, client_certificate.cert_file, client_certificate.key_file)
        elif tls.client_auth_type == REQUIRE_CLIENT_CERT:
            load_certificate(context, _resolve_path(path, tls.cert_file), _resolve_path(path, tls.key_file))
    except OSError as error:  # ssl.SSLError is one
        hint = "run this as the agent's user"
        raise ConfigError([f"{source} cannot be used: {error.strerror or error}; {hint}"]) from error
    return context
