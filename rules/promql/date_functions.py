"""
The calendar functions: minute, hour, days and years of a Unix time in UTC.

https://prometheus.io/docs/prometheus/latest/querying/functions/#day_of_month
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rules.history.blocks import Floats
from rules.promql.plan import Call
from rules.promql.values import Moment, Series, all_nameless, unique

_Whole = npt.NDArray[np.int64]

_DAY = 86_400
_ERA = 146_097  # days of 400 years, after which the calendar repeats
_TO_MARCH = 719_468  # days from 1 March of year 0, with which an era begins here, to 1970
_FURTHEST = 1 << 63  # seconds; what Go makes of NaN and of anything beyond, on x86-64


class _Date(NamedTuple):
    seconds: _Whole  # of the day
    days: _Whole  # since 1970
    day: _Whole
    month: _Whole
    year: _Whole


def calendar(part: Callable[[_Date], _Whole]) -> Callable[[Call, Moment], Series]:
    """A function of the time a sample's value stands for, or of the evaluation time where it has no argument."""

    def run(call: Call, moment: Moment) -> Series:
        if not call.arguments:
            return Series(((),), _parts_of(part, moment.times[None, :] / 1000), None)
        series = moment.series(call.arguments[0])
        labels = call.memo.of((series.labels,), lambda: all_nameless(series.labels))
        return unique(Series(labels, _parts_of(part, series.values), series.present), call.unique)

    return run


def _parts_of(part: Callable[[_Date], _Whole], seconds: Floats) -> Floats:
    known = np.abs(seconds) < _FURTHEST
    unix = np.where(known, seconds, 0.0).astype(np.int64)
    days = np.where(known, unix // _DAY, _FURTHEST // _DAY)
    return part(_date(days, np.where(known, unix % _DAY, _FURTHEST % _DAY))).astype(np.float64)


def _date(days: _Whole, seconds: _Whole) -> _Date:
    """The civil date, after Howard Hinnant's days_from_civil turned round."""
    era, of_era = (days + _TO_MARCH) // _ERA, (days + _TO_MARCH) % _ERA
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    from_march = (5 * of_year + 2) // 153
    day = of_year - (153 * from_march + 2) // 5 + 1
    month = np.where(from_march < 10, from_march + 3, from_march - 9)
    return _Date(seconds, days, day, month, year + 400 * era + (month <= 2))


def minute(date: _Date) -> _Whole:
    return date.seconds // 60 % 60


def hour(date: _Date) -> _Whole:
    return date.seconds // 3600


def day_of_month(date: _Date) -> _Whole:
    return date.day


def day_of_week(date: _Date) -> _Whole:
    return (date.days + 4) % 7  # 0 is Sunday; 1 January 1970 was a Thursday


def day_of_year(date: _Date) -> _Whole:
    before = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334])[date.month - 1]
    day: _Whole = before + date.day + (_leap(date.year) & (date.month > 2))
    return day


def days_in_month(date: _Date) -> _Whole:
    lengths = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[date.month - 1]
    days: _Whole = lengths + (_leap(date.year) & (date.month == 2))
    return days


def month(date: _Date) -> _Whole:
    return date.month


def year(date: _Date) -> _Whole:
    return date.year


def _leap(years: _Whole) -> npt.NDArray[np.bool_]:
    leap: npt.NDArray[np.bool_] = (years % 4 == 0) & ((years % 100 != 0) | (years % 400 == 0))
    return leap
