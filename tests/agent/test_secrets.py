"""A secret that the configuration or a file of it holds appears nowhere: a real agent, and peers that echo it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import typing
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import bcrypt
import msgspec
import pytest
import yaml

from agent import configuration
from agent.config import schema
from agent.config.loader import ConfigError
from agent.remediation import catalog
from tests import processes
from tests.answering import run_server
from tests.secret_files import write_secret
from tests.structure import HOUSE

PASSWORD = "pass-word-of-a-person"
# Where a secret stands in the configuration of the running agent below, or why a field of such a name holds none.
PLANTED = {
    "EngineTarget.url": "engines",
    "EngineTarget.api_key_file": "engines",
    "BasicAuth.password": "alerting",
    "BasicAuth.password_file": "alerting",
    "BasicAuth.username": "alerting",
    "BasicAuth.username_file": "alerting",
    "Authorization.credentials": "alerting",
    "Authorization.credentials_file": "alerting",
    "WebSettings.tokens": "web",
    "WebSettings.config": "web",
    "RemedySettings.target": "remedies",
    "pace.token_file": "remedies",
    "webhook.token_file": "remedies",
    "warm_up.token_file": "remedies",
    "ipmi.credentials_file": "collectors",
}
HOLDS_NONE = {
    "TlsClient.key": "a key is loaded by OpenSSL alone; a fault in it is in FAULTS",
    "TlsClient.key_file": "as above",
    "TlsClient.ca": "a certificate is public",
    "TlsClient.cert": "as above",
    "ClientCertificate.key_file": "as above, of the commands",
    "StaticConfig.targets": "may have no user",
    "WebSettings.external_url": "may have no user, and is part of each alert",
}
SUSPICIOUS = ("password", "user", "credential", "token", "key", "secret", "url", "config", "target", "header")


def _iter_fields(section: Any) -> Iterator[tuple[str, Any]]:
    for name, hint in typing.get_type_hints(section, include_extras=True).items():
        yield f"{section.__name__}.{name}", hint


def _find_sections(hint: Any) -> Iterator[type]:
    for part in (hint, *typing.get_args(hint)):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            yield part
        elif part is not hint:
            yield from _find_sections(part)


def _walk_schema() -> Iterator[str]:
    """Yields every text field of the configuration, those of actions and collectors too."""
    waiting, seen = [schema.AgentConfig], set[type]()
    while waiting:
        section = waiting.pop()
        if section in seen:
            continue
        seen.add(section)
        for name, hint in _iter_fields(section):
            waiting += _find_sections(hint)
            if not list(_find_sections(hint)) and "str" in str(hint):
                yield name
    for room in ("agent/actions", "collectors"):
        for path in sorted((HOUSE / room).glob("[a-z]*.py")):
            module = __import__(f"{room.replace('/', '.')}.{path.stem}", fromlist=["Config"])
            config = getattr(module, "Config", None)
            for name, hint in typing.get_type_hints(config).items() if config else ():
                if "str" in str(hint):
                    yield f"{path.stem}.{name}"


def test_every_field_that_can_hold_a_secret_is_planted() -> None:
    """A new field whose name suggests a secret is planted below, or says why it holds none."""
    suspicious = {
        field
        for field in _walk_schema()
        if any(word in field.rpartition(".")[2] for word in SUSPICIOUS) and field.rpartition(".")[2] != "disable"
    }

    assert suspicious - PLANTED.keys() - HOLDS_NONE.keys() == set()
    assert (PLANTED.keys() | HOLDS_NONE.keys()) - set(_walk_schema()) == set()


@contextlib.contextmanager
def serve_echo() -> Iterator[str]:
    """Refuses every request with all that it contains, as careless servers do; yields HOST:PORT."""

    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            body = f"Cannot {self.requestline} with {self.headers}".encode()
            self.send_response(404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_GET  # noqa: N815  http.server's own names

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    with run_server(server):
        yield f"127.0.0.1:{server.server_port}"


class Garden:
    """A folder of configuration and files with a secret in each place."""

    def __init__(self, folder: Path, peer: str) -> None:
        self.folder = folder
        self.secrets: dict[str, str] = {"web": PASSWORD}
        self.listen = f"127.0.0.1:{processes.find_free_port()}"
        (folder / "state").mkdir(mode=0o700)
        self.state_token = self.plant("state-token")
        write_secret(folder / "state/token", self.state_token)
        write_secret(folder / "state/pace_token", self.plant("pace-token"))
        (folder / "r.yml").write_text("groups: [{name: g, rules: [{alert: Always, expr: vector(1)}]}]")
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        self.secrets["hash"] = hashed
        (folder / "web.yml").write_text(yaml.safe_dump({"basic_auth_users": {"alice": hashed}}))
        (folder / "c.yml").write_text(yaml.safe_dump(self._build(peer)))

    def plant(self, place: str) -> str:
        """Returns a new secret."""
        self.secrets[place] = f"S3cr3t-{len(self.secrets)}-{os.urandom(6).hex()}"
        return self.secrets[place]

    def plant_file(self, place: str, pattern: str = "{}") -> str:
        """Returns a new file that holds a new secret."""
        path = self.folder / f"file-{len(self.secrets)}"
        write_secret(path, pattern.format(self.plant(place)))
        path.chmod(0o600)
        return str(path)

    def _build(self, peer: str) -> dict[str, Any]:
        static = {"timeout": "2s", "static_configs": [{"targets": [peer]}]}
        url = f"http://{peer}/{self.plant('engine path')}/v1?model={self.plant('engine query')}"
        hook = f"http://hook:{self.plant('hook user')}@{peer}/{self.plant('hook path')}?k={self.plant('hook query')}"
        gateway = f"http://{peer}/{self.plant('gateway path')}"
        user, password = self.plant("user name"), self.plant("password")
        return {
            "web": {
                "listen": self.listen,
                "config": str(self.folder / "web.yml"),
                "tokens": {"am": self.plant_file("token of a machine")},
            },
            "state": {"dir": str(self.folder / "state")},
            "engine": {"enabled": False},
            "engines": [{"name": "r1", "kind": "vllm", "url": url, "api_key_file": self.plant_file("engine key")}],
            "collectors": {
                "ipmi": {
                    "enabled": True,
                    "address": peer,
                    "credentials_file": self.plant_file("bmc", "username=admin\npassword={}\n"),
                }
            },
            "rules": {"builtin": False, "files": [str(self.folder / "r.yml")]},
            "alerting": {
                "alertmanagers": [
                    {**static, "basic_auth": {"username": user, "password": password}},
                    {
                        **static,
                        "path_prefix": "/2",
                        "basic_auth": {
                            "username_file": self.plant_file("user file"),
                            "password_file": self.plant_file("password file"),
                        },
                    },
                    {**static, "path_prefix": "/3", "authorization": {"credentials": self.plant("credentials")}},
                    {
                        **static,
                        "path_prefix": "/4",
                        "authorization": {"credentials_file": self.plant_file("credentials file")},
                    },
                ]
            },
            "remediation": {
                "mode": "enforce",
                "builtin": False,
                "pause_file": str(self.folder / "pause"),
                "hand": str(self.folder / "nobody"),
                "silences": True,
            },
            "remedies": self._build_remedies(hook, gateway),
        }

    def _build_remedies(self, hook: str, gateway: str) -> list[dict[str, Any]]:
        always = {"match": ['alertname="Always"'], "cooldown": "1m"}
        return [
            {
                **always,
                "name": "hook",
                "action": "webhook",
                "target": {"url": hook},
                "parameters": {"token_file": self.plant_file("hook token")},
            },
            {
                **always,
                "name": "gate",
                "action": "pace",
                "target": {"url": gateway},
                "parameters": {"token_file": self.plant_file("gateway token")},
            },
            {**always, "name": "own", "action": "pace", "target": {"engine": "r1"}},
            {
                **always,
                "name": "warm",
                "action": "warm_up",
                "target": {"engine": "r1"},
                "parameters": {"token_file": self.plant_file("engine token")},
            },
        ]

    def ask(self, path: str) -> str:
        """Returns the answer of the agent to somebody with a credential."""
        headers = {"Authorization": f"Bearer {self.state_token}"}
        try:
            request = urllib.request.Request(f"http://{self.listen}{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return str(answer.read().decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            return f"{error} {error.headers} {error.read().decode('utf-8', 'replace')}"
        except OSError as error:
            return str(error)

    def run_command(self, *arguments: str) -> str:
        """Returns what a command prints."""
        command = [sys.executable, "-m", "agent", *arguments, "--config", str(self.folder / "c.yml")]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return result.stdout + result.stderr


def _read_processes(parent: int) -> str:
    """Returns command lines and environments of a process and its descendants."""
    text, parents = "", {parent}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError, IndexError):  # it has ended
            above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if int(folder.name) in parents or above in parents:
                parents.add(int(folder.name))
                text += (folder / "cmdline").read_text() + (folder / "environ").read_text()
    return text


def _read_state(folder: Path) -> dict[str, str]:
    """
    Returns the content of every file of the state folder, but for the agent's own tokens and the journal.

    The journal keeps the address that a restore after a crash needs, and is private.
    """
    private = {"token", "pace_token", "journal.db", "journal.db-wal", "journal.db-shm"}
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*") if path.name in private} == {0}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in private]
    return {str(path.relative_to(folder)): path.read_bytes().decode("utf-8", "replace") for path in files}


def _list_paths() -> list[str]:
    """Returns every path of the API that only reads."""
    description = yaml.safe_load((HOUSE / "agent/web/openapi.yml").read_text())
    paths = [path for path, methods in description["paths"].items() if "get" in methods and "{" not in path]
    query = {"/api/v1/query": "?query={__name__=~'.%2B'}", "/api/v1/series": "?match[]={__name__=~'.%2B'}"}
    tries = [f"/api/v1/remedies/try?name={name}" for name in ("hook", "gate", "own", "warm")]
    return [*(path + query.get(path, "") for path in paths), *tries, "/api/v1/label/alertmanager/values", "/nothing"]


@pytest.mark.deep
def test_no_planted_secret_appears_anywhere(tmp_path: Path) -> None:
    """Log, audit, API, page, metrics, commands, command lines and databases, while every peer fails and echoes."""
    with serve_echo() as peer:
        garden = Garden(tmp_path, peer)
        arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(tmp_path / "c.yml")]
        with processes.run_process(arguments, tmp_path / "log") as process:
            audit = "/api/v1/remedies/audit"
            processes.wait_until(
                lambda: all(word in garden.ask(audit) for word in ('"hook"', '"gate"', '"own"', '"warm"', "HTTP 404")),
                120,
                "every remedy has acted or refused",
            )
            processes.wait_until(
                lambda: (tmp_path / "log").read_text().count("alerts cannot be sent") >= 4, 120, "no alert can be sent"
            )
            pages = {path: garden.ask(path) for path in _list_paths()}
            pages["processes"] = _read_processes(process.pid)
            for command in (
                ("remedies", "list"),
                ("remedies", "audit"),
                ("remedies", "try", "hook"),
                ("top", "--once"),
            ):
                pages[" ".join(command)] = garden.run_command(*command)
        for command in (("check",), ("collect", "engine"), ("alert", "test"), ("rules", "check")):
            pages[" ".join(command)] = garden.run_command(*command)
        pages["log"] = (tmp_path / "log").read_text()
        pages |= _read_state(tmp_path / "state")

    assert "HTTP 404" in pages[audit]
    leaks = [
        f"{place} in {page}"
        for place, secret in garden.secrets.items()
        for page, text in pages.items()
        if secret in text
    ]

    assert leaks == []


SECRET = "S3cr3t-0f-a-fault"
FAULTS = {
    "a line that is not YAML": f"alerting: {{alertmanagers: [{{basic_auth: {{password: {SECRET}: ]",
    "an alias": f"alerting: {{alertmanagers: [{{basic_auth: {{username: u, password: *{SECRET}}}}}]}}",
    "a tag": f"alerting: {{alertmanagers: [{{basic_auth: {{username: u, password: !{SECRET} x}}}}]}}",
    "a list": f"alerting: {{alertmanagers: [{{basic_auth: {{username: u, password: [{SECRET}]}}}}]}}",
    "a mapping": f"alerting: {{alertmanagers: [{{authorization: {{credentials: {{a: {SECRET}}}}}}}]}}",
    "both": f"alerting: {{alertmanagers: [{{basic_auth: {{username: u, password: {SECRET}, password_file: f}}}}]}}",
    "no PEM": f"alerting: {{alertmanagers: [{{tls_config: {{key: {SECRET}}}}}]}}",
    "a user in a target": f'alerting: {{alertmanagers: [{{static_configs: [{{targets: ["u:{SECRET}@h:1"]}}]}}]}}',
    "a user of an engine": f'engines: [{{name: a, url: "http://u:{SECRET}@h:1"}}]',
    "a user of the page": f'web: {{external_url: "http://u:{SECRET}@h:1"}}',
    "a webhook without a scheme": f'{{name: a, match: [a="b"], action: webhook, target: {{url: "h/{SECRET}"}}}}',
    "a webhook of two": f'{{name: a, match: [a="b"], action: webhook, target: {{url: "http://h/{SECRET}", uri: x}}}}',
    "a gateway and an engine": f'{{name: a, match: [a="b"], action: pace, target: {{url: "{SECRET}", engine: r}}}}',
    "a target that is a list": f'{{name: a, match: [a="b"], action: webhook, target: ["http://h/{SECRET}"]}}',
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_does_not_quote_a_secret(tmp_path: Path, fault: str) -> None:
    """What is wrong with a setting is told by its place, without the value that may be a secret."""
    text = FAULTS[fault]
    (tmp_path / "c.yml").write_text(f"remedies: [{text}]" if text.startswith("{name") else text)
    with pytest.raises(ConfigError) as raised:
        config, _ = configuration.load_configuration(tmp_path / "c.yml")
        catalog.bind_remedies(config, "c.yml")

    assert raised.value.messages
    assert SECRET not in json.dumps(raised.value.messages)


def test_the_engines_secret_opens_nothing_of_the_api(tmp_path: Path) -> None:
    """Who has the pace token, such as the engine's user, can neither read a closed agent nor pause its remedies."""
    with serve_echo() as peer:
        garden = Garden(tmp_path, peer)
        arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(tmp_path / "c.yml")]
        with processes.run_process(arguments, tmp_path / "log"):
            processes.wait_until(lambda: garden.ask("/-/ready").startswith("steadytok"), 60, "the agent answers")
            garden.state_token = garden.secrets["pace-token"]

            assert "401" in garden.ask("/metrics")
            assert "401" in garden.ask("/api/v1/remedies/pause")
