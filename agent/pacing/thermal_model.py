"""
What heats a DIMM, learnt: how far from its limit it ends idle, how much a busy engine adds, and how slowly.

For each of two dozen time constants the share worked is smoothed as the DIMM would smooth it, and its temperature
is fitted to that by a line; the time constant with the least error has it. Nothing that is measured with noise is on
the right-hand side, so a sensor that knows whole degrees biases nothing, as it would in a fit of each reading on the
one before.

Readings are kept as means in bins of the smoothed share: hours at one load do not push out what was learnt at others,
and it is small. Bins fade with a time of six hours, as rooms and seasons do.
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
MOST = 1800.0  # seconds of readings that a bin counts for
FADE = 6 * 3600.0  # seconds in which a bin's weight falls to a third
LAG = 5.0  # seconds between work and reading, besides what the DIMM and its sensor's interval take
GAP = 30.0  # seconds: after a longer silence the DIMM's past is not known
SETTLE = 2.0  # time constants until it no longer matters
UNKNOWN = 900.0  # seconds instead, while the time constant is not known
GAINS = (2.0, 100.0)  # °C; a fit outside is no heat of an engine
SPREAD = 0.1  # of the smoothed share, as a standard deviation: less is no experiment
SURE = 0.2  # of the gain: its standard error
SURPRISE = 3.0  # °C that the fit may be off in the mean: more, and a fan, or the room, is another
MEMORY = 600.0  # seconds of that mean
KEPT = 0.02  # of the weights then: enough to go on from, too little to hold on to
_LEAST_NOISE = 0.02  # °C squared, of a sensor that seems to have none
_MEANS = 5  # of x, y, xx, xy, yy


class Plant(NamedTuple):
    """One DIMM under one engine."""

    gain: float
    """°C that working all the time adds in the end."""
    time_constant: float
    """Seconds."""
    idle: float
    """Headroom in the end when nothing works, °C."""

    def headroom(self, share: float) -> float:
        """Where it ends when that share of the time is worked."""
        return self.idle - self.gain * share


PRIOR = Plant(gain=30.0, time_constant=120.0, idle=25.0)
"""An RDIMM in moving air, for the controller's gains until they are learnt; nothing is decided from it."""


@dataclass(frozen=True, eq=False)
class Learnt:
    """All that is remembered; [candidate] and [candidate, bin]."""

    smoothed: Floats | None = None
    """The share worked, as each candidate would have it; None before the first."""
    lagged: float = 0.0
    """The share worked, as it is before that: late by what is between heat and reading."""
    weights: Floats = field(default_factory=lambda: np.zeros((len(CANDIDATES), BINS)))
    means: Floats = field(default_factory=lambda: np.zeros((_MEANS, len(CANDIDATES), BINS)))
    unsettled: float = 0.0
    """Seconds until the past before the last gap has faded."""
    surprise: float = 0.0
    """How much cooler than fitted it is, in the mean of the last minutes."""


def observe(
    learnt: Learnt, headroom: float | None, share: float | None, seconds: float, *, heated: bool, period: float = 2.0
) -> Learnt:
    """
    One reading: the hottest DIMM's headroom, and the share of time worked since the one before.

    `heated` is False where work and heat are not in proportion, since the firmware throttles; `period`: seconds between
    two readings of the sensor, which in the mean is late by half of that.
    """
    if share is None or not math.isfinite(share):
        return replace(learnt, smoothed=None)
    if learnt.smoothed is None or seconds > GAP:
        known = fitted(learnt)
        settling = UNKNOWN if known is None else SETTLE * known.time_constant
        return replace(learnt, smoothed=np.full(len(CANDIDATES), share), lagged=share, unsettled=settling)
    lagged = share + (learnt.lagged - share) * math.exp(-seconds / (LAG + period / 2))
    smoothed = lagged + (learnt.smoothed - lagged) * np.exp(-seconds / CANDIDATES)
    unsettled = max(0.0, learnt.unsettled - seconds)
    learnt = replace(learnt, smoothed=smoothed, lagged=lagged, unsettled=unsettled)
    if headroom is None or not heated or learnt.unsettled:
        return learnt
    return _taken_in(_doubted(learnt, smoothed, headroom, seconds), smoothed, headroom, seconds)


def _doubted(learnt: Learnt, x: Floats, y: float, seconds: float) -> Learnt:
    """Where it has been wrong for minutes, what was learnt before hardly counts any more."""
    fit = _fit(learnt)
    if fit is None:
        return replace(learnt, surprise=0.0)
    off = y - fit.plant.headroom(float(x[fit.candidate]))
    surprise = off + (learnt.surprise - off) * math.exp(-seconds / MEMORY)
    if abs(surprise) <= SURPRISE:
        return replace(learnt, surprise=surprise)
    return replace(learnt, surprise=0.0, weights=learnt.weights * KEPT)


def _taken_in(learnt: Learnt, x: Floats, y: float, seconds: float) -> Learnt:
    rows, bins = np.arange(len(CANDIDATES)), np.clip((x * BINS).astype(int), 0, BINS - 1)
    weights = learnt.weights * math.exp(-seconds / FADE)
    weights[rows, bins] = np.minimum(weights[rows, bins] + seconds, MOST)
    means = learnt.means.copy()
    told = np.stack([x, np.full_like(x, y), x * x, x * y, np.full_like(x, y * y)])
    means[:, rows, bins] += (told - means[:, rows, bins]) * (seconds / weights[rows, bins])
    return replace(learnt, weights=weights, means=means)


def fitted(learnt: Learnt) -> Plant | None:
    """The plant; None while too little has been seen, at too few loads, to tell."""
    fit = _fit(learnt)
    sure = fit is not None and GAINS[0] <= fit.plant.gain <= GAINS[1] and fit.doubt <= SURE * fit.plant.gain
    return fit.plant if fit is not None and sure else None


class _Fit(NamedTuple):
    plant: Plant
    candidate: int
    doubt: float
    """The standard error of the gain; readings within a time constant count as one."""


def _fit(learnt: Learnt) -> _Fit | None:
    total = learnt.weights.sum(axis=1)
    if not total.all():
        return None
    x, y, xx, xy, yy = (learnt.means * learnt.weights).sum(axis=2) / total
    spread, together = xx - x * x, xy - x * y
    slope = together / np.maximum(spread, 1e-9)
    error = np.maximum(yy - y * y - slope * together, 0.0)
    best = int(np.argmin(error))
    if spread[best] < SPREAD**2:
        return None
    gain, time_constant = -float(slope[best]), float(CANDIDATES[best])
    independent = float(total[best]) / time_constant
    doubt = math.sqrt(max(float(error[best]), _LEAST_NOISE) / (independent * float(spread[best])))
    return _Fit(Plant(gain, time_constant, float(y[best] + gain * x[best])), best, doubt)


class _Stored(msgspec.Struct):
    weights: list[list[float]]
    means: list[list[list[float]]]


def stored(learnt: Learnt) -> Any:
    """What is worth keeping, for JSON."""
    return {"weights": learnt.weights.round(1).tolist(), "means": learnt.means.round(5).tolist()}


def restored(told: Any) -> Learnt:
    """Takes back what `stored` gave; raises ValueError (msgspec's is one) where it is another's."""
    kept = msgspec.convert(told, _Stored)
    learnt = Learnt(weights=np.array(kept.weights, np.float64), means=np.array(kept.means, np.float64))
    fits = learnt.weights.shape == (len(CANDIDATES), BINS) and learnt.means.shape == (_MEANS, len(CANDIDATES), BINS)
    if not fits or not np.isfinite(learnt.means).all() or not ((learnt.weights >= 0) & (learnt.weights <= MOST)).all():
        raise ValueError("not what this version has learnt")
    return learnt
