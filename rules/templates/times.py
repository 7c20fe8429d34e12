"""
The results of `toTime` and `toDuration`, with the methods of Go's types: https://pkg.go.dev/time.

Methods that no template can call are absent: Clock, Date, ISOWeek and Zone return several values, In takes a location.
So is Local, which depends on the host: times are in UTC, as in Prometheus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from rules.templates.lexer import TemplateError
from rules.templates.values import Method, NamedInt, TemplateRecord

_SECOND, _MINUTE, _HOUR = 10**9, 60 * 10**9, 3600 * 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_1_NS = 62_135_596_800 * _SECOND  # Go rounds from its zero time, 1 January of the year 1
_MAX_NS = 2**63
_MONTHS = (
    *("", "January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

# In the order of time.Format; a name followed by a lower-case letter is no word of the layout.
_LAYOUT = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|0[1-6]|002|15|1|2006|2|_2(?!006)|__2|3|4|5|PM|pm"
    r"|[-Z](?:070000|07:00:00|0700|07:00|07)|[.,](?:0+|9+)(?!\d)"
)


@dataclass(frozen=True)
class Duration(TemplateRecord):
    """A time.Duration in nanoseconds; `toDuration` returns a pointer to one, as `type_name` tells."""

    ns: int
    type_name: str = field(default="time.Duration", compare=False)

    @property
    def is_pointer(self) -> bool:
        """True for a pointer, which is always true in a condition and cannot be compared."""
        return self.type_name.startswith("*")

    def __bool__(self) -> bool:
        return self.ns != 0 or self.is_pointer

    @property
    def methods(self) -> Mapping[str, Method]:
        return DURATION_METHODS

    def round_to(self, step: Duration) -> Duration:
        """Rounds to the nearest multiple of the step, halves away from zero."""
        if step.ns <= 0:
            return self
        size = (abs(self.ns) * 2 + step.ns) // (2 * step.ns) * step.ns
        return Duration(_clamp(-size if self.ns < 0 else size))

    def truncate_to(self, step: Duration) -> Duration:
        """Rounds towards zero to a multiple of the step."""
        if step.ns <= 0:
            return self
        size = abs(self.ns) // step.ns * step.ns
        return Duration(-size if self.ns < 0 else size)

    def __str__(self) -> str:
        size, sign = abs(self.ns), "-" if self.ns < 0 else ""
        for unit, suffix in ((1, "ns"), (1_000, "µs"), (1_000_000, "ms")):
            if 0 < size < 1000 * unit:
                return f"{sign}{_format_plain(Decimal(size) / unit)}{suffix}"
        hours, rest = divmod(size, _HOUR)
        minutes, ns = divmod(rest, _MINUTE)
        text = f"{hours}h" if hours else ""
        text += f"{minutes}m" if hours or minutes else ""
        return f"{sign}{text}{_format_plain(Decimal(ns) / _SECOND)}s"


@dataclass(frozen=True)
class Time(TemplateRecord):
    """A time.Time in UTC, in nanoseconds since 1970; `toTime` returns a pointer to one, as `type_name` tells."""

    ns: int
    type_name: str = field(default="time.Time", compare=False)

    @property
    def methods(self) -> Mapping[str, Method]:
        return TIME_METHODS

    @property
    def utc_datetime(self) -> datetime:
        """The time, truncated to microseconds."""
        try:
            return _EPOCH + timedelta(microseconds=self.ns // 1000)
        except OverflowError:
            raise TemplateError("the time is outside the years 1 to 9999") from None

    def add_date(self, years: int, months: int, days: int) -> Time:
        """Adds as Go's AddDate: a day past the end of the month falls into the next month."""
        date = self.utc_datetime
        total_months = (date.year + years) * 12 + date.month - 1 + months
        try:
            month_start = datetime(total_months // 12, total_months % 12 + 1, 1, tzinfo=UTC) - _EPOCH
        except (ValueError, OverflowError):
            raise TemplateError("the time is outside the years 1 to 9999") from None
        return Time((month_start.days + date.day - 1 + days) * 24 * _HOUR + self.ns % (24 * _HOUR))

    def subtract(self, other: Time) -> Duration:
        """Returns the difference, clamped to the range of a Duration."""
        return Duration(_clamp(self.ns - other.ns))

    def round_to(self, step: Duration) -> Time:
        """Rounds to the nearest multiple of the step since the year 1, halves up."""
        excess = (self.ns + _YEAR_1_NS) % step.ns if step.ns > 0 else 0
        return Time(self.ns - excess if excess * 2 < step.ns or not excess else self.ns - excess + step.ns)

    def truncate_to(self, step: Duration) -> Time:
        """Rounds down to a multiple of the step since the year 1."""
        return Time(self.ns - (self.ns + _YEAR_1_NS) % step.ns if step.ns > 0 else self.ns)

    def format(self, layout: str) -> str:
        """Formats the time by a Go layout: https://pkg.go.dev/time#Layout."""
        words = _build_layout_words(self.utc_datetime)
        return _LAYOUT.sub(lambda match: words.get(match[0]) or self._format_fraction_or_zone(match[0]), layout)

    def _format_fraction_or_zone(self, word: str) -> str:
        if word[0] == "Z":
            return "Z"
        if word[0] == "-":
            return "+" + word[1:].replace("7", "0")
        digits = f"{self.ns % _SECOND:09d}"[: len(word) - 1]
        digits = digits.rstrip("0") if word[1] == "9" else digits
        return word[0] + digits if digits else ""

    def __str__(self) -> str:
        return self.format("2006-01-02 15:04:05.999999999 -0700 MST")


def _build_layout_words(moment: datetime) -> Mapping[str, str]:
    hour, day_of_year = moment.hour % 12 or 12, moment.timetuple().tm_yday
    month, weekday = _MONTHS[moment.month], _DAYS[moment.isoweekday() % 7]
    return {
        "January": month,
        "Jan": month[:3],
        "Monday": weekday,
        "Mon": weekday[:3],
        "MST": "UTC",
        "2006": f"{moment.year:04d}",
        "06": f"{moment.year % 100:02d}",
        "01": f"{moment.month:02d}",
        "1": f"{moment.month}",
        "02": f"{moment.day:02d}",
        "_2": f"{moment.day:2d}",
        "2": f"{moment.day}",
        "002": f"{day_of_year:03d}",
        "__2": f"{day_of_year:3d}",
        "15": f"{moment.hour:02d}",
        "03": f"{hour:02d}",
        "3": f"{hour}",
        "PM": "AM" if moment.hour < 12 else "PM",
        "pm": "am" if moment.hour < 12 else "pm",
        "04": f"{moment.minute:02d}",
        "4": f"{moment.minute}",
        "05": f"{moment.second:02d}",
        "5": f"{moment.second}",
    }


def _format_plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _clamp(ns: int) -> int:
    return min(max(ns, -_MAX_NS), _MAX_NS - 1)


def _divide_toward_zero(ns: int, unit: int) -> int:
    return abs(ns) // unit * (-1 if ns < 0 else 1)


DURATION_METHODS: Mapping[str, Method] = {
    "Abs": Method(lambda d: Duration(_clamp(abs(d.ns))), (), "duration"),
    "Hours": Method(lambda d: d.ns / _HOUR),
    "Microseconds": Method(lambda d: _divide_toward_zero(d.ns, 1000)),
    "Milliseconds": Method(lambda d: _divide_toward_zero(d.ns, 1_000_000)),
    "Minutes": Method(lambda d: d.ns / _MINUTE),
    "Nanoseconds": Method(lambda d: d.ns),
    "Round": Method(Duration.round_to, ("duration",), "duration"),
    "Seconds": Method(lambda d: d.ns / _SECOND),
    "String": Method(str),
    "Truncate": Method(Duration.truncate_to, ("duration",), "duration"),
}

TIME_METHODS: Mapping[str, Method] = {
    "Add": Method(lambda t, d: Time(t.ns + d.ns), ("duration",), "time"),
    "AddDate": Method(Time.add_date, ("int", "int", "int"), "time"),
    "After": Method(lambda t, other: t.ns > other.ns, ("time",)),
    "Before": Method(lambda t, other: t.ns < other.ns, ("time",)),
    "Compare": Method(lambda t, other: (t.ns > other.ns) - (t.ns < other.ns), ("time",)),
    "Day": Method(lambda t: t.utc_datetime.day),
    "Equal": Method(lambda t, other: t.ns == other.ns, ("time",)),
    "Format": Method(Time.format, ("string",)),
    "Hour": Method(lambda t: t.utc_datetime.hour),
    "IsDST": Method(lambda _: False),
    "IsZero": Method(lambda t: t.ns == -_YEAR_1_NS),
    "Minute": Method(lambda t: t.utc_datetime.minute),
    "Month": Method(lambda t: NamedInt(t.utc_datetime.month, _MONTHS, "time.Month")),
    "Nanosecond": Method(lambda t: t.ns % _SECOND),
    "Round": Method(Time.round_to, ("duration",), "time"),
    "Second": Method(lambda t: t.utc_datetime.second),
    "String": Method(str),
    "Sub": Method(Time.subtract, ("time",), "duration"),
    "Truncate": Method(Time.truncate_to, ("duration",), "time"),
    "UTC": Method(lambda t: Time(t.ns), (), "time"),
    "Unix": Method(lambda t: t.ns // _SECOND),
    "UnixMicro": Method(lambda t: t.ns // 1000),
    "UnixMilli": Method(lambda t: t.ns // 1_000_000),
    "UnixNano": Method(lambda t: t.ns),
    "Weekday": Method(lambda t: NamedInt(t.utc_datetime.isoweekday() % 7, _DAYS, "time.Weekday")),
    "Year": Method(lambda t: t.utc_datetime.year),
    "YearDay": Method(lambda t: t.utc_datetime.timetuple().tm_yday),
}

METHODS_BY_KIND: Mapping[str, Mapping[str, Method]] = {"time": TIME_METHODS, "duration": DURATION_METHODS}
"""The methods of times and durations, by the kind that a Method or one of toTime and toDuration returns."""
