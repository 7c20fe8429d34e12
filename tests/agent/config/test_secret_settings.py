"""Files that the configuration names as secrets: none is a token of the agent's own, and all can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from agent import configuration
from agent.commands import check
from agent.config import loader, paths, schema
from agent.config.loader import ConfigError
from agent.config.secret_settings import find_shared_tokens, find_unusable_secrets
from agent.storage.state_dir import PACE_TOKEN, TOKEN
from tests.secret_files import write_secret

GATEWAY = {"name": "cool", "match": ['alertname="DimmHot"'], "target": {"url": "http://127.0.0.1:9/"}, "cooldown": "1m"}
# By the setting that names a secret: a configuration with FILE as its value.
SETTINGS: dict[str, dict[str, Any]] = {
    "EngineTarget.api_key_file": {"engines": [{"name": "r1", "url": "http://127.0.0.1:9", "api_key_file": "FILE"}]},
    "BasicAuth.username_file": {
        "alerting": {"alertmanagers": [{"basic_auth": {"username_file": "FILE", "password": "p"}}]}
    },
    "BasicAuth.password_file": {
        "alerting": {"alertmanagers": [{"basic_auth": {"username": "u", "password_file": "FILE"}}]}
    },
    "Authorization.credentials_file": {
        "alerting": {"alertmanagers": [{"authorization": {"credentials_file": "FILE"}}]}
    },
    "TlsClient.ca_file": {"alerting": {"alertmanagers": [{"tls_config": {"ca_file": "FILE"}}]}},
    "TlsClient.cert_file": {"alerting": {"alertmanagers": [{"tls_config": {"cert_file": "FILE", "key_file": "k"}}]}},
    "TlsClient.key_file": {"alerting": {"alertmanagers": [{"tls_config": {"cert_file": "c", "key_file": "FILE"}}]}},
    "ClientCertificate.cert_file": {"web": {"client_certificate": {"cert_file": "FILE", "key_file": "k"}}},
    "ClientCertificate.key_file": {"web": {"client_certificate": {"cert_file": "c", "key_file": "FILE"}}},
    "WebSettings.tokens": {"web": {"tokens": {"engines": "FILE"}}},
    "pace.token_file": {"remedies": [{**GATEWAY, "action": "pace", "parameters": {"token_file": "FILE"}}]},
    "webhook.token_file": {"remedies": [{**GATEWAY, "action": "webhook", "parameters": {"token_file": "FILE"}}]},
}


def find_faults(tmp_path: Path, settings: dict[str, Any], file: str) -> list[tuple[str, str]]:
    """Returns the faults of a configuration whose state folder is `state` beside it."""
    config = loader.load(write_configuration(tmp_path, settings, file), {})
    return list(find_shared_tokens(paths.resolve_paths(config, tmp_path / "steadytok.yml")))


def write_configuration(tmp_path: Path, settings: dict[str, Any], file: str) -> Path:
    """Writes the settings with `file` in the place of FILE."""
    path = tmp_path / "steadytok.yml"
    document = {"state": {"dir": str(tmp_path / "state")}, **settings}
    path.write_text(yaml.safe_dump(document).replace("FILE", file))
    return path


@pytest.mark.parametrize("name", [TOKEN, PACE_TOKEN])
@pytest.mark.parametrize("setting", SETTINGS)
def test_an_own_token_is_no_secret_for_a_peer(tmp_path: Path, setting: str, name: str) -> None:
    """Whoever got `token` could use the API; `pace_token` is never sent. Any other file is taken."""
    ((path, sentence),) = find_faults(tmp_path, SETTINGS[setting], str(tmp_path / "state" / name))

    assert setting.partition(".")[2] in path
    assert sentence.startswith(f"{tmp_path}/state/{name} ")
    assert find_faults(tmp_path, SETTINGS[setting], str(tmp_path / "state" / "other")) == []


def test_a_link_to_an_own_token_is_found_too(tmp_path: Path) -> None:
    """A link, or a path relative to the configuration, names the same file."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / TOKEN).write_text("t" * 32)
    (tmp_path / "link").symlink_to("state/token")

    for file in ("link", "state/../state/token"):
        assert len(find_faults(tmp_path, SETTINGS["WebSettings.tokens"], file)) == 1


def test_the_agent_refuses_such_a_configuration(tmp_path: Path) -> None:
    """The sentence names the configuration, the setting and what to do."""
    path = write_configuration(tmp_path, SETTINGS["pace.token_file"], str(tmp_path / "state" / PACE_TOKEN))

    with pytest.raises(ConfigError, match=r"\$\.remedies\[0\]\.parameters\.token_file: .* leave the setting out"):
        configuration.load_configuration(path)


@pytest.mark.parametrize("setting", [name for name in SETTINGS if not name.endswith(("ca_file", "cert_file"))])
def test_a_secret_that_cannot_be_used_is_named(tmp_path: Path, setting: str) -> None:
    """A remedy reads its token first in an incident, which is too late to hear that everybody may read it."""
    path, file = write_configuration(tmp_path, SETTINGS[setting], str(tmp_path / "secret")), tmp_path / "secret"
    config = loader.load(path, {})

    for text, mode, sentence in (
        (None, 0, "No such file or directory"),
        ("", 0o600, "it is empty"),
        ("s" * 32, 0o644, "everybody may read it (mode 644); chmod 640 or 600 it"),
        ("s" * 32, 0o660, "others may write it (mode 660); chmod 640 or 600 it"),
        ("s" * 32, 0o640, None),
    ):
        if text is not None:
            write_secret(file, text).chmod(mode)
        faults = [fault for place, fault in find_unusable_secrets(config) if setting.partition(".")[2] in place]

        assert faults == ([] if sentence is None else [f"{file}: {sentence}"])


def test_check_names_such_a_file(tmp_path: Path) -> None:
    """`steadytok check` says it beside the configuration, and ends with 1."""
    path = write_configuration(tmp_path, SETTINGS["webhook.token_file"], str(tmp_path / "nowhere"))
    (tmp_path / "root").mkdir()
    result = CliRunner().invoke(check.command, ["--config", str(path), "--root", str(tmp_path / "root")])

    assert result.exit_code == 1
    assert f"secret         $.remedies[0].parameters.token_file: {tmp_path}/nowhere: No such file" in result.output


def test_every_setting_that_names_a_secret_is_tried() -> None:
    """A new setting of that kind has its row above; pause_file is a switch that remedies watch, and no secret."""
    types = [value for value in vars(schema).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)]
    names = {f"{section.__name__}.{name}" for section in types for name in section.__struct_fields__}

    assert {name for name in names if name.endswith(("_file", ".tokens"))} <= {
        *SETTINGS,
        "RemediationConfig.pause_file",
    }
