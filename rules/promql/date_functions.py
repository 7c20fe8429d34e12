"""
The calendar functions: minute, hour, day, month and year of a Unix time in UTC.

https://prometheus.io/docs/prometheus/latest/querying/functions/#day_of_month
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rules.history.blocks import Floats
from rules.promql.plan import Call
from rules.promql.values import EvaluationContext, Series, drop_metric_names, merge_same_labels

_Integers = npt.NDArray[np.int64]

_DAY = 86_400
_ERA = 146_097  # days of 400 years, after which the calendar repeats
_TO_MARCH = 719_468  # days from 1 March of year 0, where an era begins, to 1970
_FURTHEST = 1 << 63  # seconds; Go's result for NaN and for any number beyond, on x86-64


class _Date(NamedTuple):
    seconds: _Integers  # of the day
    days: _Integers  # since 1970
    day: _Integers
    month: _Integers
    year: _Integers


def make_date_function(part: Callable[[_Date], _Integers]) -> Callable[[Call, EvaluationContext], Series]:
    """Makes a function of the Unix time in a sample's value, or of the evaluation time if it has no argument."""

    def run(call: Call, context: EvaluationContext) -> Series:
        if not call.arguments:
            return Series(((),), _compute_part(part, context.times[None, :] / 1000), None)
        series = context.evaluate_series(call.arguments[0])
        labels = call.memo.get_or_compute((series.labels,), lambda: drop_metric_names(series.labels, context.budget))
        return merge_same_labels(Series(labels, _compute_part(part, series.values), series.present), call.merge_memo)

    return run


def _compute_part(part: Callable[[_Date], _Integers], seconds: Floats) -> Floats:
    in_range = np.abs(seconds) < _FURTHEST
    unix_seconds = np.where(in_range, seconds, 0.0).astype(np.int64)
    days = np.where(in_range, unix_seconds // _DAY, _FURTHEST // _DAY)
    return part(_to_date(days, np.where(in_range, unix_seconds % _DAY, _FURTHEST % _DAY))).astype(np.float64)


def _to_date(days: _Integers, seconds: _Integers) -> _Date:
    """Converts days since 1970 to a civil date, with Howard Hinnant's civil_from_days."""
    era, era_day = (days + _TO_MARCH) // _ERA, (days + _TO_MARCH) % _ERA
    year = (era_day - era_day // 1460 + era_day // 36_524 - era_day // 146_096) // 365
    year_day = era_day - (365 * year + year // 4 - year // 100)
    march_month = (5 * year_day + 2) // 153
    day = year_day - (153 * march_month + 2) // 5 + 1
    month = np.where(march_month < 10, march_month + 3, march_month - 9)
    return _Date(seconds, days, day, month, year + 400 * era + (month <= 2))


def minute(date: _Date) -> _Integers:
    return date.seconds // 60 % 60


def hour(date: _Date) -> _Integers:
    return date.seconds // 3600


def day_of_month(date: _Date) -> _Integers:
    return date.day


def day_of_week(date: _Date) -> _Integers:
    return (date.days + 4) % 7  # 0 is Sunday; 1 January 1970 was a Thursday


def day_of_year(date: _Date) -> _Integers:
    before = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334])[date.month - 1]
    day: _Integers = before + date.day + (_is_leap(date.year) & (date.month > 2))
    return day


def days_in_month(date: _Date) -> _Integers:
    lengths = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[date.month - 1]
    days: _Integers = lengths + (_is_leap(date.year) & (date.month == 2))
    return days


def month(date: _Date) -> _Integers:
    return date.month


def year(date: _Date) -> _Integers:
    return date.year


def _is_leap(years: _Integers) -> npt.NDArray[np.bool_]:
    leap: npt.NDArray[np.bool_] = (years % 4 == 0) & ((years % 100 != 0) | (years % 400 == 0))
    return leap
