"""
Learns how an engine heats a DIMM: the headroom when idle, the degrees that work adds, and how slowly.

For each of two dozen time constants the share worked is smoothed as the DIMM would smooth it, and a line fits its
temperature to that; the time constant with the least error wins. No noisy measurement is on the right-hand side, so a
sensor of whole degrees does not bias the fit, as it would in a fit of each reading on the one before.

Readings are kept as means in bins of the smoothed share. That is small, and hours at one load do not displace the
readings of other loads. Bins fade with a time of six hours, as rooms and seasons do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Seconds, 25 to 563: modules in moving air have 60 to 200, in still air 450.
CANDIDATES: Floats = 25.0 * np.float64(1.145) ** np.arange(24, dtype=np.float64)
BINS = 8
MAX_BIN_SECONDS = 1800.0  # seconds of readings that a bin counts for
FADE_SECONDS = 6 * 3600.0  # seconds in which a bin's weight falls to a third
LAG_SECONDS = 5.0  # seconds between work and reading, besides the delay of the DIMM and its sensor's interval
GAP_SECONDS = 30.0  # seconds: after a longer silence the DIMM's past is not known
SETTLE_CONSTANTS = 2.0  # time constants until the unknown past no longer matters
UNKNOWN_SETTLE_SECONDS = 900.0  # seconds instead, while the time constant is not known
GAIN_RANGE = (2.0, 100.0)  # °C; a fit outside is not an engine's heat
MIN_SPREAD = 0.1  # of the smoothed share, as a standard deviation: with less the loads differ too little for a fit
MAX_GAIN_ERROR = 0.2  # of the gain: its standard error
MAX_SURPRISE = 3.0  # °C that the fit may be off in the mean: more means another fan, or another room temperature
SURPRISE_SECONDS = 600.0  # seconds of that mean
SURPRISE_DISCOUNT = 0.02  # of the weights then: enough to go on from, too little to hold on to
_MIN_NOISE = 0.02  # °C squared, of a sensor that seems to have none
_MEANS = 5  # of x, y, xx, xy, yy


class Plant(NamedTuple):
    """One DIMM under one engine."""

    gain: float
    """°C that full load adds in the end."""
    time_constant: float
    """Seconds."""
    idle: float
    """Final headroom when nothing works, °C."""

    def headroom(self, share: float) -> float:
        """Returns the final headroom at a share of time worked."""
        return self.idle - self.gain * share


PRIOR = Plant(gain=30.0, time_constant=120.0, idle=25.0)
"""An RDIMM in moving air, for the controller's gains until they are learnt; nothing is decided from it."""


@dataclass(frozen=True, eq=False)
class PlantStatistics:
    """The memory of the model; arrays are [candidate] and [candidate, bin]."""

    smoothed: Floats | None = None
    """The share worked, smoothed with each candidate; None before the first reading."""
    lagged: float = 0.0
    """The share worked, delayed by the lag between heat and reading."""
    weights: Floats = field(default_factory=lambda: np.zeros((len(CANDIDATES), BINS)))
    means: Floats = field(default_factory=lambda: np.zeros((_MEANS, len(CANDIDATES), BINS)))
    unsettled: float = 0.0
    """Seconds until the past before the last gap has faded."""
    surprise: float = 0.0
    """°C by which the DIMM is cooler than fitted, in the mean of the last minutes."""


def observe(
    statistics: PlantStatistics,
    headroom: float | None,
    share: float | None,
    seconds: float,
    *,
    heated: bool,
    period: float = 2.0,
) -> PlantStatistics:
    """
    Takes in one reading: the hottest DIMM's headroom, and the share of time worked since the one before.

    `heated` is False while the firmware throttles, since work and heat are then not in proportion. `period`: seconds
    between two readings of the sensor, which in the mean is late by half of that.
    """
    if share is None or not math.isfinite(share):
        return replace(statistics, smoothed=None)
    if statistics.smoothed is None or seconds > GAP_SECONDS:
        plant = fit_plant(statistics)
        settling = UNKNOWN_SETTLE_SECONDS if plant is None else SETTLE_CONSTANTS * plant.time_constant
        return replace(statistics, smoothed=np.full(len(CANDIDATES), share), lagged=share, unsettled=settling)
    lagged = share + (statistics.lagged - share) * math.exp(-seconds / (LAG_SECONDS + period / 2))
    smoothed = lagged + (statistics.smoothed - lagged) * np.exp(-seconds / CANDIDATES)
    unsettled = max(0.0, statistics.unsettled - seconds)
    statistics = replace(statistics, smoothed=smoothed, lagged=lagged, unsettled=unsettled)
    if headroom is None or not heated or statistics.unsettled:
        return statistics
    return _add_reading(_discount_surprise(statistics, smoothed, headroom, seconds), smoothed, headroom, seconds)


def _discount_surprise(statistics: PlantStatistics, x: Floats, y: float, seconds: float) -> PlantStatistics:
    """Discounts old readings once the fit has been wrong for minutes."""
    fit = _fit_line(statistics)
    if fit is None:
        return replace(statistics, surprise=0.0)
    residual = y - fit.plant.headroom(float(x[fit.candidate]))
    surprise = residual + (statistics.surprise - residual) * math.exp(-seconds / SURPRISE_SECONDS)
    if abs(surprise) <= MAX_SURPRISE:
        return replace(statistics, surprise=surprise)
    return replace(statistics, surprise=0.0, weights=statistics.weights * SURPRISE_DISCOUNT)


def _add_reading(statistics: PlantStatistics, x: Floats, y: float, seconds: float) -> PlantStatistics:
    rows, bins = np.arange(len(CANDIDATES)), np.clip((x * BINS).astype(int), 0, BINS - 1)
    weights = statistics.weights * math.exp(-seconds / FADE_SECONDS)
    weights[rows, bins] = np.minimum(weights[rows, bins] + seconds, MAX_BIN_SECONDS)
    means = statistics.means.copy()
    moments = np.stack([x, np.full_like(x, y), x * x, x * y, np.full_like(x, y * y)])
    means[:, rows, bins] += (moments - means[:, rows, bins]) * (seconds / weights[rows, bins])
    return replace(statistics, weights=weights, means=means)


def fit_plant(statistics: PlantStatistics) -> Plant | None:
    """Returns the plant; None while too little was seen, at too few loads, to tell."""
    fit = _fit_line(statistics)
    certain = (
        fit is not None
        and GAIN_RANGE[0] <= fit.plant.gain <= GAIN_RANGE[1]
        and fit.gain_error <= MAX_GAIN_ERROR * fit.plant.gain
    )
    return fit.plant if fit is not None and certain else None


class _Fit(NamedTuple):
    plant: Plant
    candidate: int
    gain_error: float
    """The standard error of the gain; readings within a time constant count as one."""


def _fit_line(statistics: PlantStatistics) -> _Fit | None:
    total = statistics.weights.sum(axis=1)
    if not total.all():
        return None
    x, y, xx, xy, yy = (statistics.means * statistics.weights).sum(axis=2) / total
    variance, covariance = xx - x * x, xy - x * y
    slope = covariance / np.maximum(variance, 1e-9)
    error = np.maximum(yy - y * y - slope * covariance, 0.0)
    best = int(np.argmin(error))
    if variance[best] < MIN_SPREAD**2:
        return None
    gain, time_constant = -float(slope[best]), float(CANDIDATES[best])
    independent = float(total[best]) / time_constant
    gain_error = math.sqrt(max(float(error[best]), _MIN_NOISE) / (independent * float(variance[best])))
    return _Fit(Plant(gain, time_constant, float(y[best] + gain * x[best])), best, gain_error)


class _StoredStatistics(msgspec.Struct):
    weights: list[list[float]]
    means: list[list[list[float]]]


def to_builtins(statistics: PlantStatistics) -> Any:
    """Returns the statistics for JSON."""
    return {"weights": statistics.weights.round(1).tolist(), "means": statistics.means.round(5).tolist()}


def from_builtins(data: Any) -> PlantStatistics:
    """Restores statistics from the output of `to_builtins`; ValueError (msgspec's is one) for anything else."""
    stored_statistics = msgspec.convert(data, _StoredStatistics)
    statistics = PlantStatistics(
        weights=np.array(stored_statistics.weights, np.float64), means=np.array(stored_statistics.means, np.float64)
    )
    fits = statistics.weights.shape == (len(CANDIDATES), BINS) and statistics.means.shape == (
        _MEANS,
        len(CANDIDATES),
        BINS,
    )
    if (
        not fits
        or not np.isfinite(statistics.means).all()
        or not ((statistics.weights >= 0) & (statistics.weights <= MAX_BIN_SECONDS)).all()
    ):
        raise ValueError("format of another version")
    return statistics
