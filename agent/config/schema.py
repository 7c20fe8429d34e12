"""The operator's settings as frozen values with defaults; `agent/config/loader.py` reads them from a file."""

from __future__ import annotations

import socket
from typing import Annotated, Any, Literal

import msgspec

CANARY = "canary"
"""The name of the bundled engine."""

Seconds = Annotated[float, "duration"]
"""A float of seconds, written as a Prometheus duration."""


class NotLoaded:
    """Stands for the Config of a third party's collector that is not enabled: its keys are not checked."""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping of the file; the loader refuses keys that it does not declare."""


class SamplingConfig(Section, frozen=True):
    """The interval of sampling, the retention of samples, and the end of a silent collector's series."""

    interval: Seconds = 1.0
    """Time between two ticks; slow collectors have longer intervals of their own."""
    keep: Seconds = 3600.0
    """Retention: the reach of rules, queries and graphs into the past."""
    stale_after: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    """Number of intervals without a reading after which a collector's series end."""


class CollectorSettings(Section, frozen=True):
    """The settings of every collector; `config` holds the collector's own, or None."""

    enabled: bool | None = None
    """false disables the collector; true is needed for a third party's collector."""
    interval: Seconds | None = None
    """Shortest time between two passes."""
    deadline: Seconds | None = None
    """Time after which a pass counts as late; the agent does not wait longer."""
    config: Any = None


class CanaryConfig(Section, frozen=True):
    """The bundled reference engine, run as a canary."""

    enabled: Literal["auto"] | bool = "auto"
    """auto: enabled, unless systemd started the agent."""
    size: str = "auto"
    """Bytes of weights such as `64MiB`; auto: four times the last-level cache."""
    burst: Seconds = 0.2
    """Length of one burst of generation."""
    every: Seconds = 5.0
    """Time between two bursts."""


class EngineTarget(Section, frozen=True):
    """An engine of the operator, read over HTTP."""

    name: str
    """The label `engine` of its metrics."""
    url: str
    """Its HTTP address; the agent reads /metrics there."""
    kind: Literal["auto", "reference", "vllm", "llama.cpp", "sglang"] = "auto"
    """The kind of engine; auto: detected from the names of its metrics."""
    api_key_file: str | None = None
    """A file with the key that is sent as a bearer token, where the engine wants one; nobody else may read it."""


class RulesSettings(Section, frozen=True):
    """The rules that are evaluated, and their interval."""

    builtin: bool = True
    """Evaluates the built-in rules."""
    files: tuple[str, ...] = ()
    """Further rule files, or patterns such as `rules/*.yml`, relative to the configuration's folder."""
    disable: tuple[str, ...] = ()
    """Names of rules that are not evaluated."""
    interval: Seconds = 1.0
    """Time between evaluations of a rule group that sets no interval itself."""


class StaticConfig(Section, frozen=True):
    """Prometheus' static_config without labels: there is no relabelling that could use them."""

    targets: tuple[str, ...]
    """The addresses, each HOST:PORT."""


class FileConfig(Section, frozen=True):
    """Prometheus' file_sd_config."""

    files: tuple[str, ...]
    """Paths of lists of addresses in YAML or JSON, also with `*`; relative to the configuration's folder."""
    refresh_interval: Seconds = 300.0
    """Time between two readings of the files."""


class BasicAuth(Section, frozen=True):
    """Prometheus' basic_auth."""

    username: str | None = None
    """The user name."""
    username_file: str | None = None
    """A file with the user name."""
    password: str | None = None
    """The password."""
    password_file: str | None = None
    """A file with the password."""

    def __repr__(self) -> str:
        return "BasicAuth(…)"  # a printed configuration must not show a password


class Authorization(Section, frozen=True):
    """Prometheus' authorization."""

    type: str = "Bearer"
    """The scheme at the beginning of the header."""
    credentials: str | None = None
    """The token."""
    credentials_file: str | None = None
    """A file with the token."""

    def __repr__(self) -> str:
        return "Authorization(…)"  # as above


class TlsClient(Section, frozen=True):
    """Prometheus' tls_config."""

    ca: str | None = None
    """The authority that signs the server's certificate, in PEM; else, without `ca_file`, those of this host."""
    ca_file: str | None = None
    """A file with the authority."""
    cert: str | None = None
    """The certificate that the agent presents, in PEM."""
    cert_file: str | None = None
    """A file with the certificate."""
    key: str | None = None
    """Its key, in PEM."""
    key_file: str | None = None
    """A file with the key."""
    server_name: str | None = None
    """The name that the server's certificate must have, if not that of the address."""
    insecure_skip_verify: bool = False
    """Accepts any certificate."""
    min_version: Literal["TLS12", "TLS13"] = "TLS12"
    """The oldest version of TLS that is accepted."""
    max_version: Literal["TLS12", "TLS13"] = "TLS13"
    """The newest version of TLS that is accepted."""

    def __repr__(self) -> str:
        return "TlsClient(…)"  # as above: it may hold a key


class AlertmanagerSettings(Section, frozen=True):
    """The supported part of Prometheus' alertmanager_config; redirects are not followed."""

    static_configs: tuple[StaticConfig, ...] = ()
    """Addresses in this file."""
    file_sd_configs: tuple[FileConfig, ...] = ()
    """Addresses in other files."""
    scheme: Literal["http", "https"] = "http"
    """http or https."""
    path_prefix: str = "/"
    """The part of the URL before /api/v2/alerts."""
    timeout: Seconds = 10.0
    """Timeout of one request."""
    api_version: Literal["v2"] = "v2"
    """The version of the API; v2 is the only one."""
    basic_auth: BasicAuth | None = None
    """User name and password."""
    authorization: Authorization | None = None
    """A token."""
    tls_config: TlsClient | None = None
    """The settings of https."""


class AlertingConfig(Section, frozen=True):
    """The Alertmanagers, and the interval at which a firing alert is sent again."""

    alertmanagers: tuple[AlertmanagerSettings, ...] = ()
    """The agent sends to all of them; they agree among themselves which one notifies."""
    resend_delay: Seconds = 60.0
    """Time after which a firing alert is sent again."""


class ClientCertificate(Section, frozen=True):
    """The client certificate that a command presents to the agent."""

    cert_file: str
    """The file with the certificate."""
    key_file: str
    """The file with its key."""


class WebSettings(Section, frozen=True):
    """The web page, /metrics, the API, and access to them."""

    listen: str = "127.0.0.1:9817"
    """Address and port of the page, of /metrics and of the query API."""
    config: str | None = None
    """A web configuration file as exporter-toolkit has it: TLS, users, headers."""
    client_certificate: ClientCertificate | None = None
    """The certificate of `steadytok remedies` and `top`, where `config` requires one; null: the agent's own."""
    tokens: dict[str, str] = {}
    """Bearer tokens of machines: the name of each, and the file that holds it."""
    read: Literal["open", "credential"] = "open"
    """credential: reading needs one, as it always does with users in `config`; browsers prompt only for users."""
    hosts: tuple[str, ...] = ()
    """Further host names that a listener on loopback accepts."""
    external_url: str | None = None
    """The URL by which people reach the page, for links in alerts; null: the address of `listen`."""
    metrics: Literal["full", "compact"] = "full"
    """full: /metrics has every core and CPU; compact: their sums and means by package and node."""


class StateConfig(Section, frozen=True):
    """The folder for state that outlives the process."""

    dir: str | None = None
    """null: $STATE_DIRECTORY, else $XDG_STATE_HOME/steadytok."""


class VerifySettings(Section, frozen=True):
    """The verification of an act: an expression that has a result once the act has helped, and a time limit."""

    expr: str | None = None
    """Has a result once the act has helped; may use `{{ $labels.NAME }}`. null: the alert's end, or decode time."""
    within: Seconds = 300.0
    """Time limit; the verification always waits as long as the expression looks back."""


class RemedySettings(Section, frozen=True):
    """One remedy: the alerts that it serves, its action, and how often it may act."""

    name: str
    """Its name in the audit log, in metrics and on the command line."""
    match: tuple[str, ...]
    """Alertmanager's matchers; an alert must satisfy all of them."""
    action: str
    """pace, drop_caches, governor, webhook, or one of a third party."""
    target: dict[str, str] = {}
    """The target of the action; `engine: each` makes one remedy for each engine."""
    parameters: dict[str, Any] = {}
    """The parameters of the action, such as `duty`."""
    cooldown: Seconds = 600.0
    """Shortest time between two attempts; counts observed attempts, and those before a restart."""
    max_per_hour: Annotated[int, msgspec.Meta(ge=1, le=60)] = 3
    """Most attempts within an hour."""
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    """Most attempts for one alert; then the remedy gives up, and an alert says so."""
    sources: tuple[Literal["local", "webhook"], ...] = ("local",)
    """The alerts that it serves. local: those of this agent's rules; webhook: those that an Alertmanager posts."""
    labels: dict[str, str] = {}
    """The labels of a posted alert that the action may read, each with a pattern of its full value."""
    instance: str | None = None
    """A pattern of the `instance` of a posted alert; null: this host's name."""
    rollback: Literal["on_resolve", "on_exit", "never"] = "on_resolve"
    """The time at which the change is undone."""
    verify: VerifySettings = VerifySettings()
    """The verification of its effect."""
    plausible: tuple[float, float] | None = None
    """Bounds of the alert's value; outside them the sensor is assumed faulty, and the remedy does nothing."""
    enabled: bool = True
    """false disables the remedy."""


class RemediationConfig(Section, frozen=True):
    """The settings of all remedies."""

    mode: Literal["observe", "enforce"] = "observe"
    """observe: log what remedies would do; enforce: do it."""
    pause_file: str = "/run/steadytok/pause"
    """While this file exists no remedy acts, and every held change is undone."""
    hand: str = "socket"
    """The privileged helper. socket: this host's service; direct: a child of the agent; else the path of a socket."""
    max_per_hour: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 12
    """Most acts of all remedies together within an hour."""
    builtin: bool = True
    """Uses the built-in remedies."""
    disable: tuple[str, ...] = ()
    """Names of remedies that are not used."""
    webhook_expire: Seconds = 900.0
    """Time after which a posted alert ends unless posted again; more than Alertmanager's repeat_interval."""
    silences: bool = False
    """Ignores alerts that an Alertmanager of `alerting` has silenced."""


class AgentConfig(Section, frozen=True):
    """The configuration file."""

    sample: SamplingConfig = SamplingConfig()
    external_labels: dict[str, str | None] = {}
    """Labels added to every alert that has none of that name; `instance` defaults to the host's name."""
    collectors: dict[str, CollectorSettings] = {}
    """Settings by collector; each collector adds its own keys to those below."""
    engine: CanaryConfig = CanaryConfig()
    engines: tuple[EngineTarget, ...] = ()
    """The engines of this host."""
    rules: RulesSettings = RulesSettings()
    alerting: AlertingConfig = AlertingConfig()
    remediation: RemediationConfig = RemediationConfig()
    remedies: tuple[RemedySettings, ...] = ()
    """Further remedies; one with the name of a built-in remedy replaces it."""
    web: WebSettings = WebSettings()
    state: StateConfig = StateConfig()

    def build_external_labels(self) -> dict[str, str]:
        """Returns the labels of everything that leaves the host, without empty ones."""
        labels = {name: value for name, value in self.external_labels.items() if value}
        return {"instance": socket.gethostname(), "job": "steadytok"} | labels

    def build_identity_labels(self) -> dict[str, str]:
        """Returns the labels that queries add to the host's series, as a Prometheus that scrapes them would."""
        return {name: value for name, value in self.build_external_labels().items() if name in ("instance", "job")}
