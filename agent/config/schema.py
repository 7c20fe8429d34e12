"""The operator's settings as frozen values, with their defaults; `agent/config/loader.py` reads them from a file."""

from __future__ import annotations

import socket
from typing import Annotated, Any, Literal

import msgspec

CANARY = "canary"
"""The name of the bundled engine among the engines."""

Seconds = Annotated[float, "duration"]
"""A float of seconds, written as a Prometheus duration."""


TlsVersion = Literal["TLS12", "TLS13"]
"""As Prometheus' configuration calls them; what is older is broken."""


class NotLoaded:
    """Stands for the Config of a third party's collector that is not enabled: its keys are not checked."""


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping of the file; keys that it does not name are refused when the file is read."""


class SamplingConfig(Section, frozen=True):
    """How often, how long kept, and after how many silent intervals a collector's series are stale."""

    interval: Seconds = 1.0
    """Between two ticks; collectors that are slower by nature keep their own."""
    keep: Seconds = 3600.0
    """How far back rules, queries and graphs can look."""
    stale_after: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    """Silent intervals of a collector after which its series end."""


class CollectorSettings(Section, frozen=True):
    """What every collector can be told; `own` is its own Config, or None where it has none."""

    enabled: bool | None = None
    """false leaves it out; true also loads one of a third party."""
    interval: Seconds | None = None
    """Between its passes, at least."""
    deadline: Seconds | None = None
    """After which a pass counts as late; nobody waits longer for it."""
    config: Any = None


class CanaryConfig(Section, frozen=True):
    """The bundled reference engine, run as a canary."""

    enabled: Literal["auto"] | bool = "auto"
    """auto: on, unless systemd has started the agent."""
    size: str = "auto"
    """Bytes of weights such as `64MiB`; auto: four times the last-level cache."""
    burst: Seconds = 0.2
    """How long it generates at a time."""
    every: Seconds = 5.0
    """How often."""


class EngineTarget(Section, frozen=True):
    """An engine of the operator's, met over HTTP."""

    name: str
    """The label `engine` of all that is measured of it."""
    url: str
    """Where it answers HTTP; /metrics is asked for there."""
    kind: Literal["auto", "reference", "vllm", "llama.cpp", "sglang"] = "auto"
    """Whose metrics they are; auto: found by their names."""


class RulesSettings(Section, frozen=True):
    """Which rules are asked, and how often."""

    builtin: bool = True
    """Whether the built-in rules are asked."""
    files: tuple[str, ...] = ()
    """Further rule files, or patterns of their paths such as `rules/*.yml`, from the configuration's folder."""
    disable: tuple[str, ...] = ()
    """Names of rules that are left out."""
    interval: Seconds = 1.0
    """Between evaluations of groups that do not say it themselves."""


class StaticConfig(Section, frozen=True):
    """Prometheus' own static_config, less its labels: there is no relabelling that could use them."""

    targets: tuple[str, ...]
    """HOST:PORT of each."""


class FileConfig(Section, frozen=True):
    """Prometheus' own file_sd_config."""

    files: tuple[str, ...]
    """Paths, also with `*`, of lists of addresses in YAML or JSON; relative ones are of the configuration's folder."""
    refresh_interval: Seconds = 300.0
    """Until they are read again."""


class BasicAuth(Section, frozen=True):
    """Prometheus' own basic_auth."""

    username: str | None = None
    """The user."""
    username_file: str | None = None
    """The file that has the user."""
    password: str | None = None
    """The password."""
    password_file: str | None = None
    """The file that has the password."""

    def __repr__(self) -> str:
        return "BasicAuth(…)"  # whoever prints a configuration prints no password


class Authorization(Section, frozen=True):
    """Prometheus' own authorization."""

    type: str = "Bearer"
    """What the header begins with."""
    credentials: str | None = None
    """The secret."""
    credentials_file: str | None = None
    """The file that has the secret."""

    def __repr__(self) -> str:
        return "Authorization(…)"  # as above


class TlsClient(Section, frozen=True):
    """Prometheus' own tls_config."""

    ca: str | None = None
    """Who signs for the server, in PEM; with neither this nor `ca_file` it is whom this host trusts."""
    ca_file: str | None = None
    """The file that has it."""
    cert: str | None = None
    """The certificate that is shown, in PEM."""
    cert_file: str | None = None
    """The file that has it."""
    key: str | None = None
    """Its key, in PEM."""
    key_file: str | None = None
    """The file that has it."""
    server_name: str | None = None
    """The name that the server's certificate must have, where it is not the address."""
    insecure_skip_verify: bool = False
    """Whether any certificate will do."""
    min_version: Literal["TLS12", "TLS13"] = "TLS12"
    """The oldest that is spoken."""
    max_version: Literal["TLS12", "TLS13"] = "TLS13"
    """The newest that is spoken."""

    def __repr__(self) -> str:
        return "TlsClient(…)"  # as above: it may have a key


class AlertmanagerSettings(Section, frozen=True):
    """Prometheus' own alertmanager_config, as far as it is built; redirects are not followed."""

    static_configs: tuple[StaticConfig, ...] = ()
    """The addresses."""
    file_sd_configs: tuple[FileConfig, ...] = ()
    """Files of addresses."""
    scheme: Literal["http", "https"] = "http"
    """http or https."""
    path_prefix: str = "/"
    """What stands before /api/v2/alerts."""
    timeout: Seconds = 10.0
    """Of one request."""
    api_version: Literal["v2"] = "v2"
    """The only one that there is."""
    basic_auth: BasicAuth | None = None
    """A user and a password."""
    authorization: Authorization | None = None
    """A token."""
    tls_config: TlsClient | None = None
    """How https is spoken."""


class AlertingConfig(Section, frozen=True):
    """Where alerts go, and how often a firing one is told again."""

    alertmanagers: tuple[AlertmanagerSettings, ...] = ()
    """All of them are told; they agree among themselves who notifies."""
    resend_delay: Seconds = 60.0
    """Between two tellings of an alert that goes on."""


class ClientCertificate(Section, frozen=True):
    """What a command shows to the agent."""

    cert_file: str
    """The certificate."""
    key_file: str
    """Its key."""


class Web(Section, frozen=True):
    """The page, /metrics and their door."""

    listen: str = "127.0.0.1:9817"
    """Address and port of the page, of /metrics and of the query API."""
    config: str | None = None
    """A web configuration file as exporter-toolkit has it: TLS, users, headers."""
    client_certificate: ClientCertificate | None = None
    """What `steadytok remedies` and `top` show where `config` asks for one; null: the agent's own."""
    tokens: dict[str, str] = {}
    """Bearer tokens of machines: a name for each, and the file that it is in."""
    read: Literal["open", "credential"] = "open"
    """Whether reading needs a credential too; with users in `config` it always does; a browser asks for those alone."""
    hosts: tuple[str, ...] = ()
    """Names under which a listener on loopback may be asked, beside its own."""
    external_url: str | None = None
    """How people reach it, for links in alerts; null: as it listens."""
    metrics: Literal["full", "compact"] = "full"
    """Whether /metrics has every core and CPU, or their sums and means by package and node."""


class StateConfig(Section, frozen=True):
    """Where what must outlive the process is kept."""

    dir: str | None = None
    """null: $STATE_DIRECTORY, else $XDG_STATE_HOME/steadytok."""


class Verify(Section, frozen=True):
    """How an act is judged: an expression that gives something once it has helped, and how long it may take."""

    expr: str | None = None
    """Gives something once the act has helped; `{{ $labels.NAME }}` are the alert's. null: its end, or decode time."""
    within: Seconds = 300.0
    """How long that may take; what the expression looks back is waited for in any case."""


class RemedySettings(Section, frozen=True):
    """One remedy: for which alerts, what is done, and how often at most."""

    name: str
    """Its name in the diary, in metrics and on the command line."""
    match: tuple[str, ...]
    """Alertmanager's matchers; an alert must fit all of them."""
    action: str
    """pace, drop_caches, governor, webhook, or one of a third party."""
    target: dict[str, str] = {}
    """What it is done to; `engine: each` is one remedy for each engine."""
    parameters: dict[str, Any] = {}
    """The action's own, such as `duty`."""
    cooldown: Seconds = 600.0
    """Between two attempts, also those that were only observed, across restarts."""
    max_per_hour: Annotated[int, msgspec.Meta(ge=1, le=60)] = 3
    """Attempts within an hour."""
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    """Attempts for one alert; then it gives up and says so."""
    sources: tuple[Literal["local", "webhook"], ...] = ("local",)
    """Whose alerts it is for: our own rules', and those that an Alertmanager posts."""
    labels: dict[str, str] = {}
    """The labels of a posted alert that the action may see, each with the pattern of its whole value."""
    instance: str | None = None
    """The pattern of the `instance` of a posted alert; without one it is this host's."""
    rollback: Literal["on_resolve", "on_exit", "never"] = "on_resolve"
    """When what was changed is put back."""
    verify: Verify = Verify()
    """How it is judged."""
    plausible: tuple[float, float] | None = None
    """Bounds of the alert's value; beyond them it is a fault of a sensor, and nothing is done."""
    enabled: bool = True
    """false leaves it out."""


class RemediationConfig(Section, frozen=True):
    """What holds for all remedies. `hand`: `socket` is the system's, `direct` one of our own, else a path."""

    mode: Literal["observe", "enforce"] = "observe"
    """observe: say what would be done; enforce: do it."""
    pause_file: str = "/run/steadytok/pause"
    """While this file is there nothing is begun, and what is held is put back."""
    hand: str = "socket"
    """socket: the service of this host; direct: a child of our own; else the path of a socket."""
    max_per_hour: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 12
    """Acts of all remedies together within an hour."""
    builtin: bool = True
    """Whether the remedies that ship are taken."""
    disable: tuple[str, ...] = ()
    """Names of remedies that are left out."""
    webhook_expire: Seconds = 900.0
    """How long a posted alert counts as firing without being told again; longer than Alertmanager's repeat_interval."""
    silences: bool = False
    """Whether nothing is begun for an alert that an Alertmanager of `alerting` has silenced."""


class AgentConfig(Section, frozen=True):
    """The whole file."""

    sample: SamplingConfig = SamplingConfig()
    external_labels: dict[str, str | None] = {}
    """Added to every alert that goes out, where it has none of that name; without one `instance` is the host's name."""
    collectors: dict[str, CollectorSettings] = {}
    """By name; each collector adds its own keys to those below."""
    engine: CanaryConfig = CanaryConfig()
    engines: tuple[EngineTarget, ...] = ()
    """The engines of this host."""
    rules: RulesSettings = RulesSettings()
    alerting: AlertingConfig = AlertingConfig()
    remediation: RemediationConfig = RemediationConfig()
    remedies: tuple[RemedySettings, ...] = ()
    """Further remedies; one with the name of one that ships takes its place."""
    web: Web = Web()
    state: StateConfig = StateConfig()

    def build_external_labels(self) -> dict[str, str]:
        """The labels of whatever leaves the host; an empty one is none."""
        labels = {name: value for name, value in self.external_labels.items() if value}
        return {"instance": socket.gethostname(), "job": "steadytok"} | labels

    def build_identity_labels(self) -> dict[str, str]:
        """Those that the host's series have where they are asked for, as if a Prometheus had scraped them."""
        return {name: value for name, value in self.build_external_labels().items() if name in ("instance", "job")}
