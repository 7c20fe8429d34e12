"""The settings of the controller, under `parameters: {control: …}` of a remedy that paces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import msgspec

MIN_DUTY = 0.1
"""The least duty that an engine accepts."""


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Degrees are below the DIMM's limit, times in seconds, duties shares of the time."""

    margin: float = 3.0
    """The set point. DimmHot ends 5 below the limit: a set point beyond it would end its own act."""

    fans: float = 10.0
    """
    How far below the limit the BMC has raised its fans.

    Air comes first: a set point that the fans never let the DIMM reach costs nothing. A set point below it costs tokens
    for cooling that the fans would give. The BMC's fan table has the value (vendor's manual, web page or `ipmitool
    raw`). Without the table, watch steadytok_ipmi_fan_rpm or steadytok_hwmon_fan_rpm against
    steadytok_dimm_headroom_celsius.
    """

    release: float = 5.0
    """The firmware's hysteresis: it goes on throttling until the DIMM is so far below the limit."""

    cool_band: float = 1.0
    """Degrees below the set point within which the duty is not raised."""

    slew: float = 0.02
    """The most that the duty may change in a second."""

    lowest: float = MIN_DUTY
    """The least duty."""

    safe: float = 0.5
    """The duty without a reading, or while the alert's evidence is lost."""

    patience: float = 30.0
    """How long the duty is held without a reading before it falls to the safe one."""

    throttle: tuple[tuple[float, float], ...] = ((0.0, 0.9), (5.0, 0.8), (10.0, 0.6))
    """
    The firmware's steps: degrees above the limit, and the share of bandwidth left from there on.

    AMD's AGESA default (https://github.com/oxidecomputer/amd-apcb); Meta's Yosemite has one, [[0, 0.5]]. The engine's
    measured speed under throttling counts more than these steps.
    """

    refresh: float = 0.07
    """Bandwidth that refreshing twice as often takes above the limit; 0 where the limit is below JEDEC's 85 °C."""

    always: bool = False
    """Pace also where firmware throttling would leave more: an even speed, and cooler modules."""


def check_settings(settings: ControlSettings) -> Iterator[str]:
    """Yields one sentence for each setting out of bounds."""
    if not 1 <= settings.margin <= 30:
        yield f"control.margin: expected 1 to 30 °C below the limit, found {settings.margin:g}"
    if not 0 <= settings.release <= 20:
        yield f"control.release: expected 0 to 20 °C, found {settings.release:g}"
    if not max(settings.margin, settings.release + 1) < settings.fans <= 60:
        lowest = max(settings.margin, settings.release + 1)
        yield (
            f"control.fans: expected more than {lowest:g} °C below the limit, where the set point may lie, and at most "
            f"60, found {settings.fans:g}: the set point is so low that pacing would replace the fans"
        )
    if not 0 <= settings.cool_band <= 5:
        yield f"control.cool_band: expected 0 to 5 °C, found {settings.cool_band:g}"
    if not 0.001 <= settings.slew <= 0.1:
        yield f"control.slew: expected 0.001 to 0.1 a second, found {settings.slew:g}"
    if not MIN_DUTY <= settings.lowest <= settings.safe < 1:
        yield f"control: expected {MIN_DUTY:g} <= lowest <= safe < 1, found {settings.lowest:g} and {settings.safe:g}"
    if not 0 <= settings.patience <= 300:
        yield f"control.patience: expected 0 to 300 s, found {settings.patience:g}"
    if not 0 <= settings.refresh < 0.5:
        yield f"control.refresh: expected a share from 0 to 0.5, found {settings.refresh:g}"
    yield from _check_steps(settings.throttle)


def _check_steps(steps: tuple[tuple[float, float], ...]) -> Iterator[str]:
    thresholds, shares = [threshold for threshold, _ in steps], [share for _, share in steps]
    falling = all(later < earlier for earlier, later in pairwise(shares))
    rising = all(later > earlier for earlier, later in pairwise(thresholds))
    if not (steps and rising and falling and thresholds[0] >= 0 and all(0 < share < 1 for share in shares)):
        yield "control.throttle: expected [degrees above the limit, share left] with rising degrees and falling shares"
