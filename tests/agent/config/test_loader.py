"""All of the operator's file is checked, and every fault is one sentence."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.loader import ConfigError, load, parse
from agent.config.schema import AgentConfig


class Chips(msgspec.Struct, frozen=True):
    """A collector's own configuration."""

    chips: tuple[str, ...] = ("jc42",)


COLLECTOR_CONFIGS = {"meminfo": None, "hwmon": Chips}


def load_faults(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "steadytok.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, COLLECTOR_CONFIGS)
    return [message.removeprefix(f"{path}: ") for message in caught.value.messages]


def test_without_a_file_everything_has_its_default() -> None:
    """Without a file every setting has its default."""
    assert load(None, COLLECTOR_CONFIGS) == AgentConfig()


def test_an_empty_file_is_every_default(tmp_path: Path) -> None:
    """An empty file gives the defaults."""
    (tmp_path / "empty.yml").write_text("")

    assert load(tmp_path / "empty.yml", COLLECTOR_CONFIGS) == AgentConfig()


def test_the_designs_example_is_read(tmp_path: Path) -> None:
    """A complete file gives typed values, with durations in seconds."""
    path = tmp_path / "steadytok.yml"
    path.write_text("""
sample: {interval: 2s, keep: 30m, stale_after: 4}
external_labels: {instance: null}
collectors: {hwmon: {interval: 2s, deadline: 500ms, chips: [jc42, spd5118]}, meminfo: {enabled: false}}
engine: {enabled: auto, size: 64MiB, burst: 200ms, every: 5s}
engines: [{name: r1, kind: vllm, url: "http://127.0.0.1:8000"}]
rules: {builtin: true, files: [/etc/steadytok/rules/*.yml], disable: [DimmHot], interval: 1s}
alerting: {alertmanagers: [{static_configs: [{targets: ["am1:9093"]}]}]}
web: {listen: "127.0.0.1:9817", config: null, hosts: [box], tokens: {am: /x}, external_url: null, metrics: full}
""")
    config = load(path, COLLECTOR_CONFIGS)

    assert config.sample.interval == 2.0
    assert config.sample.keep == 1800.0
    assert config.collectors["hwmon"].config == Chips(chips=("jc42", "spd5118"))
    assert config.collectors["hwmon"].deadline == 0.5
    assert config.collectors["meminfo"].enabled is False
    assert config.engines[0].kind == "vllm"
    assert config.alerting.alertmanagers[0].static_configs[0].targets == ("am1:9093",)


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("", {}),
        ("external_labels:", {}),
        ("external_labels: {instance: null, rack: ''}", {}),
        ("external_labels: {instance: box, cluster: eu-1}", {"instance": "box", "cluster": "eu-1"}),
    ],
)
def test_external_labels(text: str, more: dict[str, str], tmp_path: Path) -> None:
    """Any labels are allowed, as in Prometheus. `instance` and `job` have defaults; an empty label is dropped."""
    (tmp_path / "c.yml").write_text(text)
    config = load(tmp_path / "c.yml", {})
    plain = {"instance": socket.gethostname(), "job": "steadytok"}

    assert config.build_external_labels() == plain | more
    assert config.build_identity_labels() == plain | {name: more[name] for name in more if name in plain}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sampel: {}", "$.sampel: unknown key (did you mean 'sample'?)"),
        ("sample: {interval: 1}", "$.sample.interval: expected a duration with its unit such as 1s or 500ms, found 1"),
        ("sample: {interval: fast}", "$.sample.interval: expected a duration such as 1s, 500ms or 1h30m, found 'fast'"),
        ("sample: {interval: 1m}", "$.sample.interval: expected 100ms to 10s"),
        ("sample: {keep: 5m}", "$.sample.keep: expected 10m to 7d"),
        ("engine: {every: 0s}", "$.engine.every: expected 1s to 1h"),
        ("engine: {burst: 9s}", "$.engine.burst: expected no more than engine.every"),
        ("engine: {size: banana}", "$.engine.size: expected auto or a size such as 64MiB, found 'banana'"),
        ("rules: {interval: 0s}", "$.rules.interval: expected 100ms to 1m"),
        ("collectors: {meminfo: {deadline: 0s}}", "$.collectors.meminfo.deadline: expected 10ms to 1m"),
        ("alerting: {resend_delay: 0s}", "$.alerting.resend_delay: expected 1s to 1h"),
        (
            "alerting: {alertmanagers: [{timeout: 0s, static_configs: []}]}",
            "$.alerting.alertmanagers[0].timeout: expected 100ms to 5m",
        ),
        (
            "alerting: {alertmanagers: [{static_configs: [{targets: ['http://am1:9093']}]}]}",
            "$.alerting.alertmanagers[0].static_configs: expected HOST:PORT without a scheme, found 'http://am1:9093'",
        ),
        (
            "engines: [{name: canary, url: 'http://x'}]",
            "$.engines[0].name: expected another name: 'canary' is the bundled engine's",
        ),
        ("engines: [{name: '', url: 'http://x'}]", "$.engines[0].name: expected letters, digits and _.:/- , found ''"),
        ("engines: [{name: a, url: 'http://'}]", "$.engines[0].url: expected http://HOST:PORT, found 'http://'"),
        ("engines: [{name: a, url: 'http://x:y'}]", "$.engines[0].url: expected http://HOST:PORT, found 'http://x:y'"),
        ("external_labels: {a-b: x}", "$.external_labels: expected names of labels such as cluster, found 'a-b'"),
        ("external_labels: {__a: x}", "$.external_labels: expected names of labels such as cluster, found '__a'"),
        ("external_labels: {cluster: 5}", "$.external_labels: expected `str | null`, got `int` - inside at `[...]`"),
        ("web: {external_url: banana}", "$.web.external_url: expected http://HOST:PORT/, found 'banana'"),
        ("sample: {stale_after: 0}", "$.sample.stale_after: expected `int` >= 1"),
        ("sample: []", "$.sample: expected a mapping, found a list"),
        ("collectors: {hwmno: {}}", "$.collectors.hwmno: unknown key (did you mean 'hwmon'?)"),
        ("collectors: {hwmon: {chips: 3}}", "$.collectors.hwmon.chips: expected `array`, got `int`"),
        (
            "collectors: {meminfo: {chips: [a]}}",
            "$.collectors.meminfo.chips: unknown key; known here: deadline, enabled, interval",
        ),
        (
            "collectors: {meminfo: {interval: 10m}}",
            "$.collectors.meminfo.interval: expected 1s (sample.interval) to 2m (rules look back 5 minutes)",
        ),
        ("engine: {enabled: maybe}", "$.engine.enabled: invalid enum value 'maybe'"),
        ("engines: [{name: a}]", "$.engines[0]: expected the key 'url'"),
        ("engines: [{name: a, url: ftp://x}]", "$.engines[0].url: expected http://HOST:PORT, found 'ftp://x'"),
        ("engines: [{name: null, url: 'http://x'}]", "$.engines[0].name: expected `str`, got `null`"),
        ("engines: {name: a}", "$.engines: expected a list, found a mapping"),
        (
            "engines: [{name: a, url: 'http://x'}, {name: a, url: 'http://y'}]",
            "$.engines: expected names to differ, found 'a' twice",
        ),
        ("web: {listen: '9817'}", "$.web.listen: expected ADDRESS:PORT such as 127.0.0.1:9817, found '9817'"),
        ("- a", "expected a mapping of settings, found a list"),
    ],
)
def test_a_fault_is_named_with_its_place(text: str, expected: str, tmp_path: Path) -> None:
    """The message has the file, the path inside it, and the expected value."""
    assert load_faults(text, tmp_path) == [expected]


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    """One run reports all faults, so that the file is corrected once."""
    faults = load_faults("sample: {interval: x, kep: 1h}\nweb: {listen: 3}\nbogus: 1\n", tmp_path)

    assert len(faults) == 4


def test_what_is_not_yaml_is_one_sentence(tmp_path: Path) -> None:
    """A syntax error gives its line and column, and no traceback."""
    (fault,) = load_faults("sample: {interval: [", tmp_path)

    assert fault.startswith("not YAML:")
    assert "line 1" in fault


def test_a_key_given_twice_is_a_fault(tmp_path: Path) -> None:
    """Plain YAML would silently drop the first value."""
    (fault,) = load_faults("web: {listen: '127.0.0.1:1'}\nweb: {listen: '127.0.0.1:2'}", tmp_path)

    assert "the key 'web' is there twice" in fault
    assert "line 2" in fault


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A missing file is a fault: an operator who names a file does not want the defaults."""
    with pytest.raises(ConfigError, match=r"nowhere.yml: cannot be read: No such file or directory"):
        load(tmp_path / "nowhere.yml", COLLECTOR_CONFIGS)


KEYS = ["sample", "collectors", "engine", "engines", "rules", "alerting", "web", "hwmon", "interval", "name", "url"]
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), JSONISH, max_size=5))
def test_nothing_but_a_config_or_faults(document: dict[str, object]) -> None:
    """Whatever the file holds, the result is an AgentConfig or a ConfigError with messages."""
    try:
        config = parse(document, "file", COLLECTOR_CONFIGS)
    except ConfigError as error:
        assert error.messages
        assert all(message.startswith("file: $") for message in error.messages)
    else:
        assert isinstance(config, AgentConfig)
