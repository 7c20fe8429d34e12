"""
What `toTime` and `toDuration` give, with the methods that Go's have: https://pkg.go.dev/time.

Left out is what no template can call (Clock, Date, ISOWeek and Zone give several values, In takes a location) and what
depends on the host (Local): times are in UTC, as Prometheus'.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from rules.templates.lexer import TemplateError
from rules.templates.values import Method, Named, Record

_SECOND, _MINUTE, _HOUR = 10**9, 60 * 10**9, 3600 * 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_1_NS = 62_135_596_800 * _SECOND  # Go rounds since its own zero time, 1 January of the year 1
_MOST_NS = 2**63
_MONTHS = (
    *("", "January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

# In the order in which time.Format looks; a name is no word of the layout where it goes on in lower case.
_LAYOUT = re.compile(
    r"January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|0[1-6]|002|15|1|2006|2|_2(?!006)|__2|3|4|5|PM|pm"
    r"|[-Z](?:070000|07:00:00|0700|07:00|07)|[.,](?:0+|9+)(?!\d)"
)


@dataclass(frozen=True)
class Duration(Record):
    """A time.Duration in nanoseconds; what `toDuration` gives is a pointer to one, as its type says."""

    ns: int
    type_name: str = field(default="time.Duration", compare=False)

    @property
    def pointer(self) -> bool:
        """Whether it is one: that is always true, and cannot be compared."""
        return self.type_name.startswith("*")

    def __bool__(self) -> bool:
        return self.ns != 0 or self.pointer

    @property
    def methods(self) -> Mapping[str, Method]:
        return DURATION

    def rounded(self, step: Duration) -> Duration:
        """To the nearest multiple of the step, halves away from zero."""
        if step.ns <= 0:
            return self
        size = (abs(self.ns) * 2 + step.ns) // (2 * step.ns) * step.ns
        return Duration(_within(-size if self.ns < 0 else size))

    def truncated(self, step: Duration) -> Duration:
        """Towards zero to a multiple of the step."""
        if step.ns <= 0:
            return self
        size = abs(self.ns) // step.ns * step.ns
        return Duration(-size if self.ns < 0 else size)

    def __str__(self) -> str:
        size, sign = abs(self.ns), "-" if self.ns < 0 else ""
        for unit, suffix in ((1, "ns"), (1_000, "µs"), (1_000_000, "ms")):
            if 0 < size < 1000 * unit:
                return f"{sign}{_plain(Decimal(size) / unit)}{suffix}"
        hours, rest = divmod(size, _HOUR)
        minutes, ns = divmod(rest, _MINUTE)
        shown = f"{hours}h" if hours else ""
        shown += f"{minutes}m" if hours or minutes else ""
        return f"{sign}{shown}{_plain(Decimal(ns) / _SECOND)}s"


@dataclass(frozen=True)
class Time(Record):
    """A time.Time in UTC, in nanoseconds since 1970; what `toTime` gives is a pointer to one, as its type says."""

    ns: int
    type_name: str = field(default="time.Time", compare=False)

    @property
    def methods(self) -> Mapping[str, Method]:
        return TIME

    @property
    def when(self) -> datetime:
        """Without what is below a microsecond."""
        try:
            return _EPOCH + timedelta(microseconds=self.ns // 1000)
        except OverflowError:
            raise TemplateError("the time is outside the years 1 to 9999") from None

    def moved(self, years: int, months: int, days: int) -> Time:
        """Go's AddDate: a day that the month has not is one of the next month."""
        at = self.when
        total = (at.year + years) * 12 + at.month - 1 + months
        try:
            first = datetime(total // 12, total % 12 + 1, 1, tzinfo=UTC) - _EPOCH
        except (ValueError, OverflowError):
            raise TemplateError("the time is outside the years 1 to 9999") from None
        return Time((first.days + at.day - 1 + days) * 24 * _HOUR + self.ns % (24 * _HOUR))

    def since(self, other: Time) -> Duration:
        """The time between, at most what a Duration can hold."""
        return Duration(_within(self.ns - other.ns))

    def rounded(self, step: Duration) -> Time:
        """To the nearest multiple of the step since the year 1, halves up."""
        over = (self.ns + _YEAR_1_NS) % step.ns if step.ns > 0 else 0
        return Time(self.ns - over if over * 2 < step.ns or not over else self.ns - over + step.ns)

    def truncated(self, step: Duration) -> Time:
        """Down to a multiple of the step since the year 1."""
        return Time(self.ns - (self.ns + _YEAR_1_NS) % step.ns if step.ns > 0 else self.ns)

    def formatted(self, layout: str) -> str:
        """The layout with its words replaced: https://pkg.go.dev/time#Layout."""
        words = _words(self.when)
        return _LAYOUT.sub(lambda found: words.get(found[0]) or self._fraction_or_zone(found[0]), layout)

    def _fraction_or_zone(self, word: str) -> str:
        if word[0] == "Z":
            return "Z"
        if word[0] == "-":
            return "+" + word[1:].replace("7", "0")
        digits = f"{self.ns % _SECOND:09d}"[: len(word) - 1]
        digits = digits.rstrip("0") if word[1] == "9" else digits
        return word[0] + digits if digits else ""

    def __str__(self) -> str:
        return self.formatted("2006-01-02 15:04:05.999999999 -0700 MST")


def _words(at: datetime) -> Mapping[str, str]:
    hour, day = at.hour % 12 or 12, at.timetuple().tm_yday
    month, weekday = _MONTHS[at.month], _DAYS[at.isoweekday() % 7]
    return {
        "January": month,
        "Jan": month[:3],
        "Monday": weekday,
        "Mon": weekday[:3],
        "MST": "UTC",
        "2006": f"{at.year:04d}",
        "06": f"{at.year % 100:02d}",
        "01": f"{at.month:02d}",
        "1": f"{at.month}",
        "02": f"{at.day:02d}",
        "_2": f"{at.day:2d}",
        "2": f"{at.day}",
        "002": f"{day:03d}",
        "__2": f"{day:3d}",
        "15": f"{at.hour:02d}",
        "03": f"{hour:02d}",
        "3": f"{hour}",
        "PM": "AM" if at.hour < 12 else "PM",
        "pm": "am" if at.hour < 12 else "pm",
        "04": f"{at.minute:02d}",
        "4": f"{at.minute}",
        "05": f"{at.second:02d}",
        "5": f"{at.second}",
    }


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _within(ns: int) -> int:
    return min(max(ns, -_MOST_NS), _MOST_NS - 1)


def _toward_zero(ns: int, unit: int) -> int:
    return abs(ns) // unit * (-1 if ns < 0 else 1)


DURATION: Mapping[str, Method] = {
    "Abs": Method(lambda d: Duration(_within(abs(d.ns))), (), "duration"),
    "Hours": Method(lambda d: d.ns / _HOUR),
    "Microseconds": Method(lambda d: _toward_zero(d.ns, 1000)),
    "Milliseconds": Method(lambda d: _toward_zero(d.ns, 1_000_000)),
    "Minutes": Method(lambda d: d.ns / _MINUTE),
    "Nanoseconds": Method(lambda d: d.ns),
    "Round": Method(Duration.rounded, ("duration",), "duration"),
    "Seconds": Method(lambda d: d.ns / _SECOND),
    "String": Method(str),
    "Truncate": Method(Duration.truncated, ("duration",), "duration"),
}

TIME: Mapping[str, Method] = {
    "Add": Method(lambda t, d: Time(t.ns + d.ns), ("duration",), "time"),
    "AddDate": Method(Time.moved, ("int", "int", "int"), "time"),
    "After": Method(lambda t, other: t.ns > other.ns, ("time",)),
    "Before": Method(lambda t, other: t.ns < other.ns, ("time",)),
    "Compare": Method(lambda t, other: (t.ns > other.ns) - (t.ns < other.ns), ("time",)),
    "Day": Method(lambda t: t.when.day),
    "Equal": Method(lambda t, other: t.ns == other.ns, ("time",)),
    "Format": Method(Time.formatted, ("string",)),
    "Hour": Method(lambda t: t.when.hour),
    "IsDST": Method(lambda _: False),
    "IsZero": Method(lambda t: t.ns == -_YEAR_1_NS),
    "Minute": Method(lambda t: t.when.minute),
    "Month": Method(lambda t: Named(t.when.month, _MONTHS, "time.Month")),
    "Nanosecond": Method(lambda t: t.ns % _SECOND),
    "Round": Method(Time.rounded, ("duration",), "time"),
    "Second": Method(lambda t: t.when.second),
    "String": Method(str),
    "Sub": Method(Time.since, ("time",), "duration"),
    "Truncate": Method(Time.truncated, ("duration",), "time"),
    "UTC": Method(lambda t: Time(t.ns), (), "time"),
    "Unix": Method(lambda t: t.ns // _SECOND),
    "UnixMicro": Method(lambda t: t.ns // 1000),
    "UnixMilli": Method(lambda t: t.ns // 1_000_000),
    "UnixNano": Method(lambda t: t.ns),
    "Weekday": Method(lambda t: Named(t.when.isoweekday() % 7, _DAYS, "time.Weekday")),
    "Year": Method(lambda t: t.when.year),
    "YearDay": Method(lambda t: t.when.timetuple().tm_yday),
}

KINDS: Mapping[str, Mapping[str, Method]] = {"time": TIME, "duration": DURATION}
"""What a Method gives, or one of the functions toTime and toDuration, by the name of its kind."""
