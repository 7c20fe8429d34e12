"""
One temperature, limit and headroom for each DIMM, whoever measured it.

Made from the Samples of hwmon (DDR4 modules: jc42, DDR5: spd5118). A sensor sits on the module's board, not in the
DRAM. https://docs.kernel.org/hwmon/spd5118.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from collectors import Host, Reading, Sample, gauge
from collectors._nodes import nodes

AFTER = ("hwmon",)

TEMPERATURE = gauge("steadytok_dimm_temperature_celsius", "Temperature of a memory module's sensor.")
LIMIT = gauge(
    "steadytok_dimm_limit_celsius",
    "Temperature at which trouble begins: 85 °C, JEDEC's normal range, or the sensor's critical limit if lower.",
)
HEADROOM = gauge("steadytok_dimm_headroom_celsius", "Degrees left until the limit; below 0 it is exceeded.")
METRICS = (TEMPERATURE, LIMIT, HEADROOM)

_CHIPS = ("jc42", "spd5118")
_NORMAL_RANGE = 85.0  # °C, JEDEC: above it DRAM needs twice the refreshes, about 7 % of the bandwidth


def join(readings: Mapping[str, Sequence[Sample]], host: Host) -> Iterator[Reading]:
    """Temperature, limit and headroom of each DIMM among the Samples, which come by the name of their collector."""
    samples = readings.get("hwmon", ())
    limits = _by_device(samples, "steadytok_hwmon_temperature_critical_celsius")
    node = _only_node(host)
    for dimm, celsius in _by_device(samples, "steadytok_hwmon_temperature_celsius").items():
        critical = limits.get(dimm, 0.0)
        # A module rated for 95 °C survives there, but from 85 °C on it is refreshed twice as often: trouble has begun.
        limit = min(critical, _NORMAL_RANGE) if critical > 0 else _NORMAL_RANGE
        yield TEMPERATURE.sample(celsius, dimm=dimm, node=node, source="hwmon")
        yield LIMIT.sample(limit, dimm=dimm, node=node, source="hwmon")
        yield HEADROOM.sample(limit - celsius, dimm=dimm, node=node, source="hwmon")


def _by_device(samples: Iterable[Sample], name: str) -> dict[str, float]:
    chosen = ((dict(sample.labels), sample.value) for sample in samples if sample.metric.name == name)
    return {_dimm(labels): value for labels, value in chosen if labels.get("chip") in _CHIPS and _dimm(labels)}


def _dimm(labels: dict[str, str]) -> str:
    return labels.get("device", "")


def _only_node(host: Host) -> str:
    """
    The node of every DIMM where there is only one, else none.

    The bus of the sensors hangs on one socket whatever socket the modules are in, so it tells no node.
    """
    found = nodes(host)
    return found[0] if len(found) == 1 else ""
