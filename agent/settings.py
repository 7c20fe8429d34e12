"""The operator's settings as frozen values, with their defaults. What they are read from is `agent/config.py`'s."""

from __future__ import annotations

import socket
from typing import Annotated, Any, Literal

import msgspec

CANARY = "canary"
"""The name of the bundled engine among the engines."""

Seconds = Annotated[float, "duration"]
"""A float of seconds, written as a Prometheus duration."""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping of the file; keys that it does not name are refused when the file is read."""


class Sampling(Section, frozen=True):
    """How often, how long kept, and after how many silent intervals a collector's series are stale."""

    interval: Seconds = 1.0
    keep: Seconds = 3600.0
    stale_after: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3


class ExternalLabels(Section, frozen=True):
    """Labels added to whatever leaves the host."""

    instance: str | None = None

    def resolved(self) -> dict[str, str]:
        """The labels as they go out."""
        return {"instance": self.instance or socket.gethostname(), "job": "steadytok"}


class CollectorSettings(Section, frozen=True):
    """What every collector can be told; `own` is its own Config, or None where it has none."""

    enabled: bool | None = None
    interval: Seconds | None = None
    deadline: Seconds | None = None
    own: Any = None


class Canary(Section, frozen=True):
    """The bundled reference engine, run as a canary."""

    enabled: Literal["auto"] | bool = "auto"
    size: str = "auto"
    burst: Seconds = 0.2
    every: Seconds = 5.0


class EngineTarget(Section, frozen=True):
    """An engine of the operator's, met over HTTP."""

    name: str
    url: str
    kind: Literal["auto", "reference", "vllm", "llama.cpp", "sglang"] = "auto"


class RulesSettings(Section, frozen=True):
    """Which rules are asked, and how often."""

    builtin: bool = True
    files: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    interval: Seconds = 1.0


class StaticConfig(Section, frozen=True):
    """Prometheus' own static_config, less its labels: there is no relabelling that could use them."""

    targets: tuple[str, ...]


class FileConfig(Section, frozen=True):
    """Prometheus' own file_sd_config."""

    files: tuple[str, ...]
    refresh_interval: Seconds = 300.0


class BasicAuth(Section, frozen=True):
    """Prometheus' own basic_auth."""

    username: str | None = None
    username_file: str | None = None
    password: str | None = None
    password_file: str | None = None

    def __repr__(self) -> str:
        return "BasicAuth(…)"  # whoever prints a configuration prints no password


class Authorization(Section, frozen=True):
    """Prometheus' own authorization."""

    type: str = "Bearer"
    credentials: str | None = None
    credentials_file: str | None = None

    def __repr__(self) -> str:
        return "Authorization(…)"  # as above


class TlsClient(Section, frozen=True):
    """Prometheus' own tls_config."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    insecure_skip_verify: bool = False
    min_version: Literal["TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS12", "TLS13"] = "TLS13"


class AlertmanagerSettings(Section, frozen=True):
    """Prometheus' own alertmanager_config, as far as it is built; redirects are not followed."""

    static_configs: tuple[StaticConfig, ...] = ()
    file_sd_configs: tuple[FileConfig, ...] = ()
    scheme: Literal["http", "https"] = "http"
    path_prefix: str = "/"
    timeout: Seconds = 10.0
    api_version: Literal["v2"] = "v2"
    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    tls_config: TlsClient | None = None


class Alerting(Section, frozen=True):
    """Where alerts go, and how often a firing one is told again."""

    alertmanagers: tuple[AlertmanagerSettings, ...] = ()
    resend_delay: Seconds = 60.0


class Web(Section, frozen=True):
    """The page, /metrics and their door."""

    listen: str = "127.0.0.1:9817"
    config: str | None = None
    """A web configuration file as exporter-toolkit has it: TLS, users, headers."""
    tokens: dict[str, str] = {}
    """Bearer tokens of machines: a name for each, and the file that it is in."""
    read: Literal["open", "credential"] = "open"
    """Whether reading needs a credential too; with users in `config` it always does."""
    hosts: tuple[str, ...] = ()
    """Names under which a listener on loopback may be asked, beside its own."""
    external_url: str | None = None
    metrics: Literal["full", "compact"] = "full"
    """Whether /metrics has every core and CPU, or their sums and means by package and node."""


class State(Section, frozen=True):
    """Where what must outlive the process is kept."""

    dir: str | None = None


class Verify(Section, frozen=True):
    """How an act is judged: an expression that gives something once it has helped, and how long it may take."""

    expr: str | None = None
    within: Seconds = 300.0


class RemedySettings(Section, frozen=True):
    """One remedy: for which alerts, what is done, and how often at most."""

    name: str
    match: tuple[str, ...]
    action: str
    target: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    cooldown: Seconds = 600.0
    max_per_hour: Annotated[int, msgspec.Meta(ge=1, le=60)] = 3
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    sources: tuple[Literal["local", "webhook"], ...] = ("local",)
    """Whose alerts it is for: our own rules', and those that an Alertmanager posts."""
    labels: dict[str, str] = {}
    """The labels of a posted alert that the action may see, each with the pattern of its whole value."""
    instance: str | None = None
    """The pattern of the `instance` of a posted alert; without one it is this host's."""
    rollback: Literal["on_resolve", "on_exit", "never"] = "on_resolve"
    verify: Verify = Verify()
    plausible: tuple[float, float] | None = None
    enabled: bool = True


class Remediation(Section, frozen=True):
    """What holds for all remedies. `hand`: `socket` is the system's, `direct` one of our own, else a path."""

    mode: Literal["observe", "enforce"] = "observe"
    pause_file: str = "/run/steadytok/pause"
    hand: str = "socket"
    max_per_hour: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 12
    builtin: bool = True
    disable: tuple[str, ...] = ()
    webhook_expire: Seconds = 900.0
    """How long a posted alert counts as firing without being told again."""
    silences: bool = False
    """Whether nothing is begun for an alert that an Alertmanager of `alerting` has silenced."""


class Config(Section, frozen=True):
    """The whole file."""

    sample: Sampling = Sampling()
    external_labels: ExternalLabels = ExternalLabels()
    collectors: dict[str, CollectorSettings] = {}
    engine: Canary = Canary()
    engines: tuple[EngineTarget, ...] = ()
    rules: RulesSettings = RulesSettings()
    alerting: Alerting = Alerting()
    remediation: Remediation = Remediation()
    remedies: tuple[RemedySettings, ...] = ()
    web: Web = Web()
    state: State = State()
