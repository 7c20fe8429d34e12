"""A Host whose collector ipmi reads a scripted BMC."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from collectors import Host, Reading, ipmi
from collectors._ipmi.client import Bmc, BmcError
from tests.scripted_bmc import ScriptedBmc


class IpmiSession:
    """A Host, and the BMC that its ipmi collector finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bmc: ScriptedBmc, cache: Path | None = None) -> None:
        self.bmc, self.cache, self.config = bmc, cache, ipmi.Config()
        self.host = Host("/", cache)
        self.connections = 0
        monkeypatch.setattr(ipmi, "open_bmc", self._open)

    def _open(self, host: Host, _address: str, _file: str | None) -> Bmc | None:
        self.connections += 1
        try:
            return Bmc(self.bmc, "BMC")
        except BmcError as error:
            return host.note("BMC", str(error))

    def restart(self) -> None:
        """Replaces the Host, as a new process would."""
        self.host = Host("/", self.cache)

    def read_values(self) -> dict[str, float]:
        """Runs one pass; returns values by metric and sensor, or by metric and event."""
        return {
            _format_name(reading): reading.value
            for reading in ipmi.collect(self.host, self.config)
            if reading is not None
        }

    def read_temperatures(self) -> dict[str, float]:
        """Runs one pass; returns the temperatures by the sensor's name."""
        head = "temperature "
        return {name.removeprefix(head): value for name, value in self.read_values().items() if name.startswith(head)}

    def take_reasons(self) -> list[str]:
        """Returns the reasons noted since the last call."""
        return [note.reason for note in self.host.take_notes()]


def _format_name(reading: Reading) -> str:
    assert reading is not None
    labels = dict(reading.labels)
    short = reading.metric.name.removeprefix("steadytok_ipmi_").removesuffix("_celsius")
    return " ".join(filter(None, (short, labels.get("sensor", labels.get("event", "")))))


Begin = Callable[..., IpmiSession]
