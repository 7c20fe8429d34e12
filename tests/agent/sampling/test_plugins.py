"""Finding collectors, ours and third parties', and binding them to the configuration."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from agent import configuration
from agent.commands.check import find_hint
from agent.config.loader import ConfigError
from agent.config.schema import AgentConfig, EngineTarget
from agent.runtime.entry_points import PluginError
from agent.sampling.binding import bind_collectors
from agent.sampling.plugins import (
    COLLECTOR_GROUP,
    HINT_ABSENT,
    HINT_REFUSED,
    Collector,
    bind_collector,
    find_config_types,
    load_collectors,
)
from agent.sampling.sampler import Sampler
from collectors import EngineAddress
from tests.agent.sampling.fakes import METRIC, ManualRunner, make_result


def _install_entry_point(monkeypatch: pytest.MonkeyPatch, entry: EntryPoint) -> None:
    monkeypatch.setattr("agent.runtime.entry_points.entry_points", lambda group: [entry])


def _bind_by_name(config: AgentConfig, canary_url: str | None = None) -> dict[str, Collector]:
    return {collector.name: collector for collector in bind_collectors(config, load_collectors(), canary_url)}


def test_the_folder_is_the_list() -> None:
    """Every file of collectors/ without a leading underscore is a collector that can be bound."""
    files = {path.stem for path in (Path(__file__).parents[3] / "collectors").glob("[!_]*.py")}
    modules = load_collectors()

    assert set(modules) == files
    for name, module in modules.items():
        assert bind_collector(module, name, interval=None, deadline=None, config=None).interval > 0


def test_config_types_are_told() -> None:
    """The Config of a collector's module is its configuration type."""
    types = find_config_types(load_collectors())

    assert types["meminfo"] is None
    assert types["hwmon"] is not None


def test_a_duplicate_name_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third party's collector may not take the name of one of ours."""
    _install_entry_point(monkeypatch, EntryPoint("meminfo", "acme.meminfo", "steadytok.collectors"))

    with pytest.raises(PluginError, match="two collectors are named 'meminfo'"):
        load_collectors()


def test_a_third_partys_collector_needs_to_be_enabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported only if the configuration enables it, and can be disabled without being imported."""
    # A module that fits the contract, under another name, so that no package need be installed.
    _install_entry_point(monkeypatch, EntryPoint("acme", "collectors.pressure", COLLECTOR_GROUP))
    path = tmp_path / "steadytok.yml"
    path.write_text("collectors: {acme: {enabled: true, interval: 5s}}")
    config, modules = configuration.load_configuration(path)
    assert [c.interval for c in bind_collectors(config, modules) if c.name == "acme"] == [5.0]

    path.write_text("collectors: {acme: {enabled: false}}")
    _, modules = configuration.load_configuration(path)
    assert "acme" not in modules


def _make_third_party_module(**constants: object) -> ModuleType:
    module = ModuleType("acme_collector", "Reads the Acme card.")
    vars(module).update({"METRICS": (METRIC,), "collect": lambda host: (), **constants})
    return module


def _load_third_party(
    module: ModuleType, path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[AgentConfig, dict[str, ModuleType]]:
    monkeypatch.setitem(sys.modules, module.__name__, module)
    _install_entry_point(monkeypatch, EntryPoint("acme", module.__name__, COLLECTOR_GROUP))
    path.write_text("collectors: {acme: {enabled: true}}\nengines: [{name: r1, url: 'http://127.0.0.1:8000'}]")
    return configuration.load_configuration(path)


def test_a_third_partys_collector_has_hints_and_uevents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module's own constants say what `check` prints and which events make a pass due."""
    module = _make_third_party_module(
        HINT_ABSENT="sudo modprobe acme", HINT_REFUSED="join the group acme", UEVENTS=("acme",), INTERVAL=60.0
    )
    config, modules = _load_third_party(module, tmp_path / "steadytok.yml", monkeypatch)
    (collector,) = [each for each in bind_collectors(config, modules) if each.name == "acme"]
    runner = ManualRunner()
    sampler = Sampler(lambda _: runner, [collector], 0.0)
    sampler.start_due(0.0)
    runner.busy_since = None
    sampler.make_due_on_uevent("acme", 7.0)

    assert sampler.start_due(7.0) == {"acme"}
    assert find_hint(collector, make_result("acme", 0.0, values=0)) == "sudo modprobe acme"
    assert collector.hint_refused == "join the group acme"


def test_a_collector_without_constants_has_general_hints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module need have none of the optional constants."""
    config, modules = _load_third_party(_make_third_party_module(), tmp_path / "steadytok.yml", monkeypatch)
    (collector,) = [each for each in bind_collectors(config, modules) if each.name == "acme"]

    assert (collector.hint_absent, collector.hint_refused) == (HINT_ABSENT, HINT_REFUSED)
    assert (collector.uevents, collector.uses_engines) == ((), False)


def test_an_engines_key_reaches_the_collector_and_is_no_part_of_the_tuple() -> None:
    """Third parties' collectors unpack name, URL and kind of an EngineAddress."""
    target = EngineTarget(name="r1", url="http://127.0.0.1:8000", kind="vllm", api_key_file="/etc/steadytok/r1.key")
    (endpoint,) = _bind_by_name(AgentConfig(engines=(target,)))["engine"].config.engines
    name, url, kind = EngineAddress("r1", "http://127.0.0.1:8000", api_key_file="/etc/steadytok/r1.key")

    assert endpoint.api_key_file == "/etc/steadytok/r1.key"
    assert (name, url, kind) == ("r1", "http://127.0.0.1:8000", "auto")


def test_collectors_that_use_engines_get_them() -> None:
    """The configured engines come first, then the canary once it has a URL; other collectors get none."""
    config = AgentConfig(engines=(EngineTarget(name="r1", url="http://127.0.0.1:8000", kind="vllm"),))
    bound, with_canary = _bind_by_name(config), _bind_by_name(config, "http://127.0.0.1:9")

    assert {name for name, collector in bound.items() if collector.uses_engines} == {"engine", "process"}
    assert [(target.name, target.kind) for target in bound["engine"].config.engines] == [("r1", "vllm")]
    assert [(target.name, target.kind) for target in with_canary["engine"].config.engines] == [
        ("r1", "vllm"),
        ("canary", "reference"),
    ]
    assert [target.url for target in with_canary["process"].config.engines] == [
        "http://127.0.0.1:8000",
        "http://127.0.0.1:9",
    ]


def test_engines_belong_at_the_top_of_the_file(tmp_path: Path) -> None:
    """A fault that the collector's Config finds is reported with its path."""
    path = tmp_path / "steadytok.yml"
    path.write_text("collectors: {engine: {engines: [{name: r1, url: 'http://127.0.0.1:8000'}]}}")

    with pytest.raises(ConfigError) as raised:
        configuration.load_configuration(path)
    assert raised.value.messages == [
        f"{path}: $.collectors.engine.engines: expected the engines at the top of the file, under engines:"
    ]
