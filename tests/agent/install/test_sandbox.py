"""The sandbox lines of the units that depend on the host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import yaml

from agent.config.loader import parse
from agent.config.schema import AgentConfig
from agent.install import sandbox
from agent.sampling.plugins import find_config_types, load_collectors

MAPS = """\
00400000-00401000 r--p 00000000 fe:00 1 /usr/bin/python3.11
00401000-00500000 r-xp 00001000 fe:00 1 /usr/bin/python3.11
7f00-7f01 r-xp 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6
7f02-7f03 r-xp 00000000 fe:00 3 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 (deleted)
7f04-7f05 r-xp 00000000 fe:00 4 /usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so
7f06-7f07 r-xp 00000000 fe:00 5 /opt/steadytok/venv-3/lib/python3.11/site-packages/numpy/_core/_umath.so
7f08-7f09 r--p 00000000 fe:00 6 /usr/share/data/only
7f0a-7f0b r-xp 00000000 00:00 0 [vdso]
"""
LISTEN = "web: {listen: "


def parse_config(text: str) -> AgentConfig:
    return parse(yaml.safe_load(text) or {}, "test", find_config_types(load_collectors()))


def compute_lines(config: AgentConfig) -> sandbox.SandboxLines:
    return sandbox.compute_sandbox(config, load_collectors(), MAPS, "/usr/bin/python3.11")


def test_the_interpreter_is_a_file_and_libraries_are_folders() -> None:
    """Else every program beside the interpreter in /usr/bin could be executed; mapped data does not count."""
    assert sandbox.find_executable_paths(MAPS, "/usr/bin/python3.11") == [
        "/opt/steadytok",
        "/usr/bin/python3.11",
        "/usr/lib/python3.11/lib-dynload",
        "/usr/lib/x86_64-linux-gnu",
    ]


def test_programs_among_the_libraries_are_left_out(tmp_path: Path) -> None:
    """A folder with a program is excluded; one with libraries alone, or a mapped one, is not."""
    for name, mode in (("git/core", 0o755), ("git/more/deep", 0o755), ("ossl/legacy.so", 0o755), ("data/file", 0o644)):
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(mode)

    assert sandbox.find_program_folders([str(tmp_path / "lib")]) == [str(tmp_path / "lib/git")]
    assert sandbox.find_program_folders([str(tmp_path / "lib"), str(tmp_path / "lib/git")]) == [
        str(tmp_path / "lib/git/more")
    ]


def test_whom_the_configuration_names_may_be_reached() -> None:
    """Alertmanagers, engines and webhooks get a line; this host needs none."""
    config = parse_config(
        """
        alerting: {alertmanagers: [{static_configs: [{targets: ["192.0.2.10:9093", "[2001:db8::1]:9093"]}]}]}
        engines: [{name: a, url: "http://127.0.0.1:8000"}, {name: b, url: "http://192.0.2.11:8000/"}]
        remedies: [{name: page, match: ['alertname="X"'], action: webhook, target: {url: "https://192.0.2.12/x"}}]
        """
    )

    lines = compute_lines(config).agent

    assert lines == tuple(f"IPAddressAllow={ip}" for ip in ("192.0.2.10", "2001:db8::1", "192.0.2.11", "192.0.2.12"))


def test_alertmanagers_in_files_and_a_haproxy_far_away_are_among_them(tmp_path: Path) -> None:
    """Alertmanagers in files get lines and a note; a socket that is a path needs no line."""
    (tmp_path / "am.yml").write_text('- targets: ["192.0.2.20:9093"]\n')
    remedy = "match: ['alertname=\"X\"'], action: haproxy, parameters: {weight: 10}"
    config = parse_config(
        f"""
        alerting: {{alertmanagers: [{{file_sd_configs: [{{files: ["{tmp_path}/*.yml"]}}]}}]}}
        remedies:
        - {{name: far, {remedy}, target: {{socket: "192.0.2.21:9999", backend: b, server: s}}}}
        - {{name: near, {remedy}, target: {{socket: /run/haproxy.sock, backend: b, server: s}}}}
        """
    )

    lines = compute_lines(config)

    assert lines.agent == ("IPAddressAllow=192.0.2.20", "IPAddressAllow=192.0.2.21")
    assert any("install again" in sentence for sentence in lines.notes)


def test_a_bad_file_of_alertmanagers_does_not_spoil_the_answer(tmp_path: Path) -> None:
    """Its fault is logged to stderr, because the installer reads stdout."""
    (tmp_path / "am.yml").write_text("- nonsense\n")
    path = tmp_path / "steadytok.yml"
    path.write_text(f'alerting: {{alertmanagers: [{{file_sd_configs: [{{files: ["{tmp_path}/am.yml"]}}]}}]}}\n')
    result = subprocess.run(
        [sys.executable, "-I", "-m", "agent.install.sandbox", path], capture_output=True, text=True, check=False
    )

    assert msgspec.json.decode(result.stdout, type=sandbox.SandboxLines).agent == ()
    assert "am.yml" in result.stderr


def test_a_name_without_an_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives no line, and a note with the reason."""
    monkeypatch.setattr(sandbox, "_resolve_addresses", lambda host: [])
    lines, notes = sandbox.allow_addresses(["//am.example:9093"])

    assert lines == []
    assert notes[0].startswith("am.example has no address now")


def test_a_name_needs_a_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name's present addresses are let through, and so are the nameservers."""
    monkeypatch.setattr(sandbox, "_resolve_addresses", lambda host: ["192.0.2.10"])
    monkeypatch.setattr(sandbox, "_read_nameservers", lambda: iter(["192.0.2.53"]))

    assert sandbox.allow_addresses(["//am.example:9093"])[0] == [
        "# am.example",
        "IPAddressAllow=192.0.2.10",
        "IPAddressAllow=192.0.2.53",
    ]


def test_the_eye_has_a_network_only_for_a_bmc_that_is_on_one() -> None:
    """In-band IPMI needs no network; IPMI over the LAN reaches the BMC's address alone."""
    assert compute_lines(parse_config("")).eye == ()
    assert compute_lines(parse_config("collectors: {ipmi: {address: 192.0.2.5}}")).eye == (
        "RestrictAddressFamilies=AF_INET AF_INET6",
        "IPAddressAllow=192.0.2.5",
    )


def test_addresses_of_a_third_partys_collector_are_let_through() -> None:
    """A collector that runs in the agent gets a line in the agent's unit, one that is isolated in the eye's."""
    for is_isolated, expected in ((False, ("IPAddressAllow=192.0.2.7",)), (True, ())):
        module = SimpleNamespace(
            Config=dict, ISOLATED=is_isolated, sandbox_addresses=lambda config: config.get("hosts", ["192.0.2.7:80"])
        )
        lines = sandbox.compute_sandbox(parse_config(""), {"acme": module}, MAPS, "/usr/bin/python3.11")  # type: ignore[dict-item]  # it stands for a module

        assert lines.agent == expected
        assert ("IPAddressAllow=192.0.2.7" in lines.eye) == is_isolated


@pytest.mark.parametrize("listen", ["127.0.0.1:9817", "[::1]:9817", "localhost:9817"])
def test_listening_on_this_host_needs_nothing(listen: str) -> None:
    """There is no note."""
    assert compute_lines(parse_config(f'{LISTEN}"{listen}"}}')).notes == ()


def test_listening_to_the_network_needs_a_word_of_the_operator() -> None:
    """The configuration does not name the scrapers, so the operator must let them in."""
    (note,) = compute_lines(parse_config(f'{LISTEN}"0.0.0.0:9817"}}')).notes

    assert "systemctl edit steadytok" in note


def test_it_crosses_to_the_installer_as_json() -> None:
    """The installer reads these keys."""
    assert set(msgspec.to_builtins(sandbox.SandboxLines((), (), (), ()))) == {
        "execute",
        "excluded",
        "agent",
        "eye",
        "notes",
    }
