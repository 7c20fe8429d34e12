"""
Which Alertmanagers there are, and how they are asked: Prometheus' own keys for discovery, credentials and TLS.

Secrets that lie in files are read for each request, so a rotated one needs no reload. Redirects are not followed: they
would take a credential elsewhere. https://prometheus.io/docs/prometheus/latest/configuration/configuration/#tls_config
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

from agent.config import loader as configuration
from agent.config.loader import ConfigError
from agent.config.schema import Alerting, AlertmanagerSettings, FileConfig, Section, TlsClient
from agent.config.validation import found, is_host_port
from agent.runtime.tls import bound, in_file, load_pair
from agent.storage.file_stamp import Stamp, stamp

if TYPE_CHECKING:
    import aiohttp

_SCHEME, _PATH = "__scheme__", "__alerts_path__"


class Target(NamedTuple):
    """One Alertmanager: the root of its API, and the options of the group that it belongs to."""

    root: str
    group: AlertmanagerSettings

    @property
    def url(self) -> str:
        """Where alerts are posted."""
        return f"{self.root}/api/v2/alerts"

    @property
    def timeout(self) -> float:
        """Seconds for one request."""
        return self.group.timeout


class TargetGroup(Section, frozen=True):
    """One entry of a file_sd file; of its labels only __scheme__ and __alerts_path__ mean something here."""

    targets: tuple[str, ...] = ()
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class Fault(NamedTuple):
    """Why a request did not do; `of_content` where another try with the same alerts would not either."""

    says: str
    of_content: bool = False


def targets(alerting: Alerting) -> list[Target]:
    """Every Alertmanager of the configuration, those in files among them."""
    return Discovery(alerting.alertmanagers).targets()


class Discovery:
    """The Alertmanagers as they are now; a file that turns bad keeps what it had and says so once."""

    def __init__(self, groups: Iterable[AlertmanagerSettings]) -> None:
        self._groups = tuple(groups)
        self._stamps: dict[str, Stamp] = {}
        self._found: dict[str, tuple[TargetGroup, ...]] = {}
        self._missing: set[str] = set()
        self._log = structlog.get_logger()

    @property
    def moves(self) -> bool:
        """Whether there are files to look at again."""
        return any(group.file_sd_configs for group in self._groups)

    def targets(self) -> list[Target]:
        """Every Alertmanager, each once."""
        return list(dict.fromkeys(target for group in self._groups for target in self._of(group)))

    def _of(self, group: AlertmanagerSettings) -> Iterator[Target]:
        for address in (address for static in group.static_configs for address in static.targets):
            yield _target(group, address, {})
        for each in group.file_sd_configs:
            for entry in self._in_files(each):
                yield from (_target(group, address, entry.labels) for address in entry.targets)

    def _in_files(self, told: FileConfig) -> Iterator[TargetGroup]:
        # Looked at more often than refresh_interval, which Prometheus has for when it misses a change.
        for path in self._paths(told.files):
            now = stamp(path)
            if self._stamps.get(path) != now:
                self._stamps[path] = now
                self._read(path)
            yield from self._found.get(path, ())

    def _paths(self, patterns: Iterable[str]) -> list[str]:
        every: set[str] = set()
        for pattern in patterns:
            paths = glob.glob(pattern)
            every.update(paths)
            if not paths and "*" not in pattern and pattern not in self._missing:
                self._log.warning("there is no such file of Alertmanagers; it is looked for again", file=pattern)
            (self._missing.discard if paths else self._missing.add)(pattern)
        return sorted(every)

    def _read(self, path: str) -> None:
        try:
            self._found[path] = _entries(path)
        except ConfigError as error:
            self._log.error("a file of Alertmanagers is not used; what it had stays", faults=error.messages)


def _entries(path: str) -> tuple[TargetGroup, ...]:
    entries = configuration.entries(TargetGroup, Path(path))
    wrong = [target for entry in entries for target in entry.targets if not is_host_port(target)]
    if wrong:
        raise ConfigError([f"{path}: expected HOST:PORT without a scheme, {found(target)}" for target in wrong])
    return entries


def _target(group: AlertmanagerSettings, address: str, labels: Mapping[str, str]) -> Target:
    scheme = labels.get(_SCHEME) or group.scheme
    prefix = labels.get(_PATH, "").removesuffix("/api/v2/alerts") or group.path_prefix
    return Target(f"{scheme}://{address}/{prefix.strip('/')}".rstrip("/"), group)


def options(target: Target) -> dict[str, Any]:
    """What aiohttp is told for a request: credentials, TLS, time-out. Raises OSError where a file cannot be read."""
    import aiohttp

    tls = target.group.tls_config
    context = None if tls is None or not target.root.startswith("https:") else _context(tls, _stamps(tls))
    return {
        "headers": _credentials(target.group),
        "ssl": True if context is None else context,
        "server_hostname": None if tls is None else tls.server_name,
        "timeout": aiohttp.ClientTimeout(total=target.timeout),
        "allow_redirects": False,
    }


def _credentials(group: AlertmanagerSettings) -> dict[str, str]:
    if group.basic_auth is not None:
        told = group.basic_auth
        pair = f"{_secret(told.username, told.username_file)}:{_secret(told.password, told.password_file)}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    if group.authorization is not None:
        secret = _secret(group.authorization.credentials, group.authorization.credentials_file)
        return {"Authorization": f"{group.authorization.type} {secret}"}
    return {}


def _secret(told: str | None, file: str | None) -> str:
    return Path(file).read_text(encoding="utf-8").strip() if file is not None else told or ""


def _stamps(tls: TlsClient) -> tuple[Stamp, ...]:
    return tuple(stamp(path) for path in (tls.ca_file, tls.cert_file, tls.key_file) if path is not None)


@functools.lru_cache(maxsize=16)
def _context(tls: TlsClient, stamps: tuple[Stamp, ...]) -> ssl.SSLContext:
    """The context of these settings, made anew when a file has another stamp."""
    context = ssl.create_default_context(cafile=tls.ca_file, cadata=tls.ca)
    bound(context, tls.min_version, tls.max_version)
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with in_file(tls.cert, tls.cert_file) as certificate, in_file(tls.key, tls.key_file) as key:
        if certificate is not None:
            load_pair(context, certificate, key)
    return context


async def post(session: aiohttp.ClientSession, target: Target, batch: list[dict[str, Any]]) -> Fault | None:
    """Sends one batch; None when it was taken, else why it was not."""
    import aiohttp

    try:
        async with session.post(target.url, json=batch, **options(target)) as answer:
            if answer.status // 100 == 2:
                return None
            says = f"HTTP {answer.status}: {(await answer.text(errors='replace'))[:200].strip()}"
            return Fault(says, of_content=answer.status in (400, 422))
    except TimeoutError:
        return Fault(f"no answer within {target.timeout:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:  # whatever one answer holds, the next batch is sent
        return Fault(str(error) or type(error).__name__)
