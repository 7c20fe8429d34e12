"""Formats points in time, given in Unix milliseconds, in the zone of this host or in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def format_local(at_ms: int) -> str:
    """Formats a time of this host's zone for people: `2026-11-24 03:12:07`."""
    return _to_local(at_ms).strftime("%Y-%m-%d %H:%M:%S")


def format_local_iso(at_ms: int) -> str:
    """Formats a time of this host's zone for programs: `2026-11-24T03:12:07.250+01:00`."""
    return _to_local(at_ms).isoformat(timespec="milliseconds")


def format_utc(at_ms: int) -> str:
    """Formats a time in UTC: `2026-11-24 02:12:07.250`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")


def _to_local(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000).astimezone()
