"""Files that were once accepted, or ended in a traceback. Continues test_loader.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent import configuration
from agent.config.loader import ConfigError, load

COLLECTOR_CONFIGS = {"meminfo": None}
BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 8)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize("text", ["x: 2024-99-99", "x: !!int x", f"x: {'9' * 5000}", f"x: {'[' * 3000}"])
def test_what_yaml_chokes_on_is_a_fault(text: str, tmp_path: Path) -> None:
    """PyYAML's errors about values and depth are reported as faults, in one sentence."""
    path = tmp_path / "steadytok.yml"
    path.write_text(text)

    with pytest.raises(ConfigError, match="not YAML: "):
        load(path, COLLECTOR_CONFIGS)


def test_aliases_do_not_make_a_message_of_a_million_words(tmp_path: Path) -> None:
    """A message describes the value in a few words, however often aliases repeat it."""
    path = tmp_path / "steadytok.yml"
    path.write_text(f"{BOMB}sample: {{interval: *d}}\n")

    with pytest.raises(ConfigError) as caught:
        load(path, COLLECTOR_CONFIGS)

    assert max(map(len, caught.value.messages)) < 500


def test_a_configuration_may_come_through_a_pipe() -> None:
    """`--config <(…)` can be read only once, and is not mistaken for an empty file."""
    reading, writing = os.pipe()
    os.write(writing, b"sample: {keep: 2h}")
    os.close(writing)
    try:
        config, _modules = configuration.load_configuration(Path(f"/dev/fd/{reading}"))
    finally:
        os.close(reading)

    assert config.sample.keep == 7200.0
