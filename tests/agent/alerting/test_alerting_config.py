"""The keys of Alertmanagers in the configuration: wrong ones are refused, paths are resolved, secrets stay secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import configuration
from agent.alerting.alertmanagers import list_targets
from agent.config.loader import ConfigError, parse
from agent.config.schema import AlertingConfig


def parse_alerting(*groups: dict[str, Any]) -> AlertingConfig:
    return parse({"alerting": {"alertmanagers": list(groups)}}, "f", {}).alerting


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"basic_auth": {"username": "u"}}, "basic_auth: expected one of password and password_file"),
        ({"basic_auth": {"username": "u", "username_file": "f", "password": "p"}}, "one of username and username_file"),
        ({"authorization": {}}, "authorization: expected one of credentials and credentials_file"),
        ({"authorization": {"type": "Basic", "credentials": "x"}}, "authorization.type: expected Bearer or another"),
        ({"authorization": {"type": "a\r\nb", "credentials": "x"}}, "authorization.type: expected Bearer or another"),
        ({"tls_config": {"cert_file": "a"}}, "tls_config: expected cert_file and key_file together"),
        ({"tls_config": {"min_version": "TLS13", "max_version": "TLS12"}}, "expected no more than max_version"),
        ({"tls_config": {"cafile": "a"}}, "tls_config.cafile: unknown key (did you mean 'ca_file'?)"),
        ({"tls_config": {"ca": "-----BEGIN C", "ca_file": "a"}}, "tls_config: expected ca or ca_file, not both"),
        ({"tls_config": {"ca": "/etc/ca.pem"}}, "tls_config.ca: expected PEM, which begins with -----BEGIN"),
        ({"tls_config": {"key": "-----BEGIN K"}}, "tls_config: expected cert_file and key_file together, or cert and"),
        ({"file_sd_configs": [{"files": ["/etc/*/x.json"]}]}, "with * in its name only"),
        ({"file_sd_configs": [{"files": ["/etc/x.txt"]}]}, "expected a .json, .yml or .yaml file"),
    ],
)
def test_what_cannot_be_meant(group: dict[str, Any], message: str) -> None:
    """Wrong values are refused before anything starts."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_alerting({"static_configs": [{"targets": ["am:9093"]}], **group})


@pytest.mark.parametrize(
    "document",
    [
        {"alerting": {"alertmanagers": [{"static_configs": [{"targets": ["user:pass-phrase@am1:9093"]}]}]}},
        {"alerting": {"alertmanagers": [{"static_configs": [{"targets": ["http://user:pass-phrase@am1:9093"]}]}]}},
        {"web": {"external_url": "https://user:pass-phrase@h/"}},
        {"web": {"external_url": "user:pass-phrase@h"}},
        {"engines": [{"name": "a", "url": "http://user:pass-phrase@h:8000"}]},
    ],
)
def test_an_address_has_no_password(document: dict[str, Any]) -> None:
    """A password would appear in a metric, a log line or a link of every alert; the error does not show it either."""
    with pytest.raises(ConfigError, match="found a user in it, which metrics and logs would show") as refused:
        parse(document, "f", {})

    assert "pass-phrase" not in str(refused.value)


RELATIVE = """
rules: {files: [rules/*.yml, /etc/rules.yml]}
alerting:
  alertmanagers:
    - file_sd_configs: [{files: [am/*.json, /etc/am.json]}]
      tls_config: {ca_file: ca.pem, cert_file: /etc/cert.pem, key_file: ../key.pem}
      basic_auth: {username: u, password_file: secret}
    - static_configs: [{targets: ["am1:9093"]}]
      authorization: {credentials_file: token}
web: {config: web.yml, tokens: {grafana: /etc/grafana, other: other}, client_certificate: {cert_file: c, key_file: k}}
"""


def test_a_relative_path_is_of_the_configurations_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths do not depend on where the agent was started; brackets in the folder's name are no pattern."""
    folder = tmp_path / "[conf]"
    (folder / "am").mkdir(parents=True)
    (folder / "am" / "one.json").write_text('[{"targets": ["am2:9093"]}]')
    (folder / "steadytok.yml").write_text(RELATIVE)
    monkeypatch.chdir(tmp_path)
    config, _ = configuration.load_configuration(Path("[conf]/steadytok.yml"))
    first, second = config.alerting.alertmanagers
    assert first.tls_config is not None
    assert first.basic_auth is not None
    assert second.authorization is not None

    assert [target.url for target in list_targets(config.alerting)] == [
        "http://am2:9093/api/v2/alerts",
        "http://am1:9093/api/v2/alerts",
    ]
    assert first.tls_config.ca_file == f"{folder}/ca.pem"
    assert (first.tls_config.cert_file, first.tls_config.key_file) == ("/etc/cert.pem", f"{folder}/../key.pem")
    assert (first.basic_auth.username_file, first.basic_auth.password_file) == (None, f"{folder}/secret")
    assert second.authorization.credentials_file == f"{folder}/token"
    assert config.rules.files[1] == "/etc/rules.yml"
    assert (config.web.config, config.web.tokens) == (
        f"{folder}/web.yml",
        {"grafana": "/etc/grafana", "other": f"{folder}/other"},
    )
    assert config.web.client_certificate is not None
    assert config.web.client_certificate.cert_file == f"{folder}/c"


def test_a_printed_configuration_has_no_secret() -> None:
    """Neither a log nor a traceback shows a secret."""
    key = "-----BEGIN PRIVATE KEY-----pass-phrase"
    tls = {"cert_file": "c", "key": key}
    settings = parse_alerting({"basic_auth": {"username": "u", "password": "pass-phrase"}, "tls_config": tls})
    settings = msgspec.structs.replace(settings, alertmanagers=settings.alertmanagers * 2)

    assert "pass-phrase" not in repr(settings)
