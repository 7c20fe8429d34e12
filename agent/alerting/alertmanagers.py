"""
Discovers Alertmanagers and posts alerts to them, with Prometheus' own keys for discovery, credentials and TLS.

Secrets in files are read for each request, so a rotated secret needs no reload. Redirects are not followed, because
they would carry a credential to another host.
https://prometheus.io/docs/prometheus/latest/configuration/configuration/#tls_config
"""

from __future__ import annotations

import base64
import functools
import glob
import ssl
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from agent.config import loader
from agent.config.loader import ConfigError
from agent.config.schema import AlertingConfig, AlertmanagerSettings, FileConfig, Section, TlsClient
from agent.config.validation import describe_address, is_host_port
from agent.runtime.errors import describe_error
from agent.runtime.threads import run_in_thread
from agent.runtime.tls import MAX_PEM_BYTES, as_file_path, load_certificate, set_version_bounds
from agent.storage.file_stamp import FileStamp, read_file_stamp
from agent.storage.secret_file import SecretFileError, check_key_file, read_secret
from agent.text.units import hide_secrets
from collectors import check_regular_file

if TYPE_CHECKING:
    from agent.runtime.http_client import HttpClient

_SCHEME, _PATH = "__scheme__", "__alerts_path__"


class AlertmanagerTarget(NamedTuple):
    """One Alertmanager: the root URL of its API, and the options of its group."""

    root: str
    group: AlertmanagerSettings

    @property
    def url(self) -> str:
        """The URL that alerts are posted to."""
        return f"{self.root}/api/v2/alerts"

    @property
    def timeout(self) -> float:
        """The timeout of one request, in seconds."""
        return self.group.timeout


class TargetGroup(Section, frozen=True):
    """One entry of a file_sd file; of its labels only __scheme__ and __alerts_path__ have an effect."""

    targets: tuple[str, ...] = ()
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class SendFailure(NamedTuple):
    """Why a request failed; `is_permanent` if the same alerts would fail again."""

    reason: str
    is_permanent: bool = False


def list_targets(alerting: AlertingConfig) -> list[AlertmanagerTarget]:
    """Returns every Alertmanager of the configuration, including those listed in files."""
    return AlertmanagerDiscovery(alerting.alertmanagers).list_targets()


class AlertmanagerDiscovery:
    """Lists the current Alertmanagers; an invalid file keeps its last valid entries, and is logged once."""

    def __init__(self, groups: Iterable[AlertmanagerSettings]) -> None:
        self._groups = tuple(groups)
        self._stamps: dict[str, FileStamp] = {}
        self._entries_by_path: dict[str, tuple[TargetGroup, ...]] = {}
        self._missing: set[str] = set()
        self._log = structlog.get_logger()

    @property
    def has_files(self) -> bool:
        """True if some Alertmanagers are listed in files, which must be checked again."""
        return any(group.file_sd_configs for group in self._groups)

    def list_targets(self) -> list[AlertmanagerTarget]:
        """Returns every Alertmanager once."""
        return list(dict.fromkeys(target for group in self._groups for target in self._iter_group_targets(group)))

    def _iter_group_targets(self, group: AlertmanagerSettings) -> Iterator[AlertmanagerTarget]:
        for address in (address for static_config in group.static_configs for address in static_config.targets):
            yield _build_target(group, address, {})
        for file_config in group.file_sd_configs:
            for entry in self._iter_file_entries(file_config):
                yield from (_build_target(group, address, entry.labels) for address in entry.targets)

    def _iter_file_entries(self, file_config: FileConfig) -> Iterator[TargetGroup]:
        # Checked more often than refresh_interval: Prometheus has that key only for changes that its file watch misses.
        for path in self._glob_paths(file_config.files):
            current_stamp = read_file_stamp(path)
            if self._stamps.get(path) != current_stamp:
                self._stamps[path] = current_stamp
                self._read_file(path)
            yield from self._entries_by_path.get(path, ())

    def _glob_paths(self, patterns: Iterable[str]) -> list[str]:
        all_paths: set[str] = set()
        for pattern in patterns:
            paths = glob.glob(pattern)
            all_paths.update(paths)
            if not paths and "*" not in pattern and pattern not in self._missing:
                self._log.warning("there is no such file of Alertmanagers; the agent keeps looking", file=pattern)
            (self._missing.discard if paths else self._missing.add)(pattern)
        return sorted(all_paths)

    def _read_file(self, path: str) -> None:
        try:
            self._entries_by_path[path] = _load_entries(path)
        except ConfigError as error:
            self._log.error(
                "a file of Alertmanagers is invalid; its last valid entries stay in use", faults=error.messages
            )


def _load_entries(path: str) -> tuple[TargetGroup, ...]:
    entries = loader.load_entries(TargetGroup, Path(path))
    invalid = [target for entry in entries for target in entry.targets if not is_host_port(target)]
    if invalid:
        raise ConfigError(
            [f"{path}: expected HOST:PORT without a scheme, {describe_address(target)}" for target in invalid]
        )
    return entries


def _build_target(group: AlertmanagerSettings, address: str, labels: Mapping[str, str]) -> AlertmanagerTarget:
    scheme = labels.get(_SCHEME) or group.scheme
    prefix = labels.get(_PATH, "").removesuffix("/api/v2/alerts") or group.path_prefix
    return AlertmanagerTarget(f"{scheme}://{address}/{prefix.strip('/')}".rstrip("/"), group)


async def prepare_request(target: AlertmanagerTarget) -> dict[str, Any]:
    """Builds the options of a request; in a thread where files are read, since a disk that hangs must delay no tick."""
    if not (target.group.basic_auth or target.group.authorization or target.group.tls_config):
        return build_request_options(target)
    return await run_in_thread("read credentials", lambda: build_request_options(target))


def build_request_options(target: AlertmanagerTarget) -> dict[str, Any]:
    """Builds aiohttp's options of a request: credentials, TLS and timeout. Raises OSError if a file cannot be read."""
    import aiohttp

    tls = target.group.tls_config
    context = (
        None if tls is None or not target.root.startswith("https:") else _build_ssl_context(tls, _read_stamps(tls))
    )
    return {
        "headers": _build_auth_headers(target.group),
        "ssl": True if context is None else context,
        "server_hostname": None if tls is None else tls.server_name,
        "timeout": aiohttp.ClientTimeout(total=target.timeout),
    }


def _build_auth_headers(group: AlertmanagerSettings) -> dict[str, str]:
    if group.basic_auth is not None:
        basic_auth = group.basic_auth
        username = _read_secret(basic_auth.username, basic_auth.username_file)
        password = _read_secret(basic_auth.password, basic_auth.password_file)
        pair = f"{username}:{password}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    if group.authorization is not None:
        secret = _read_secret(group.authorization.credentials, group.authorization.credentials_file)
        return {"Authorization": f"{group.authorization.type} {secret}"}
    return {}


def _read_secret(inline: str | None, file: str | None) -> str:
    if file is None:
        return inline or ""
    try:
        return read_secret(file)
    except SecretFileError as error:
        raise ValueError(f"{file}: {error}") from None


def _read_stamps(tls: TlsClient) -> tuple[FileStamp, ...]:
    return tuple(read_file_stamp(path) for path in (tls.ca_file, tls.cert_file, tls.key_file) if path is not None)


@functools.lru_cache(maxsize=16)
def _build_ssl_context(tls: TlsClient, stamps: tuple[FileStamp, ...]) -> ssl.SSLContext:
    """Builds the TLS context; `stamps` is part of the cache key, so that a changed file gives a new context."""
    if tls.ca_file is not None:
        check_regular_file(tls.ca_file, MAX_PEM_BYTES)
    context = ssl.create_default_context(cafile=tls.ca_file, cadata=tls.ca)
    set_version_bounds(context, tls.min_version, tls.max_version)
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with as_file_path(tls.cert, tls.cert_file) as certificate, as_file_path(tls.key, tls.key_file) as key:
        if certificate is not None:
            if tls.key_file is not None:
                check_key_file(tls.key_file)
            load_certificate(context, certificate, key)
    return context


async def post_alerts(
    client: HttpClient, target: AlertmanagerTarget, batch: list[dict[str, Any]]
) -> SendFailure | None:
    """Posts one batch; returns None on success, else the failure."""
    headers: dict[str, str] = {}
    try:
        options = await prepare_request(target)
        headers = options["headers"]
        answer = await client.exchange("POST", target.url, json=batch, **options)
    except TimeoutError:
        return SendFailure(f"no answer within {target.timeout:g} s")
    except (OSError, ValueError) as error:  # no answer may stop the next batches
        return SendFailure(describe_error(error))
    if answer.status // 100 == 2:
        return None
    # A peer may echo the credential; the URL has no secret, and is told in full.
    reason = f"HTTP {answer.status}: {hide_secrets(answer.text, '', headers)[:200].strip()}"
    return SendFailure(reason, is_permanent=answer.status in (400, 422))
