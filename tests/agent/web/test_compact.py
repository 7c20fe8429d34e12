"""The compact exposition: fewer series, and each still means what its name says."""

from __future__ import annotations

from agent.web.compact import compact_series
from collectors import counter, gauge

SECONDS = counter("throttle_seconds_total", "How long.")
HERTZ = gauge("frequency_hertz", "How fast.")


def test_cores_add_up_and_frequencies_are_means() -> None:
    """Counters of a package's cores are summed, a node's frequencies averaged; what has no core stays as it is."""
    series = [
        (SECONDS, (("core", "0"), ("package", "0")), 1.0, 5),
        (HERTZ, (("node", "0"),), 7.0, 5),
        (SECONDS, (("core", "1"), ("package", "0")), 2.0, 6),
        (SECONDS, (("core", "0"), ("package", "1")), 4.0, 5),
        (HERTZ, (("node", "1"), ("policy", "0")), 2e9, 5),
        (HERTZ, (("node", "1"), ("policy", "1")), 4e9, 4),
    ]

    assert list(compact_series(series)) == [
        (HERTZ, (("node", "0"),), 7.0, 5),
        (SECONDS, (("package", "0"),), 3.0, 6),
        (SECONDS, (("package", "1"),), 4.0, 5),
        (HERTZ, (("node", "1"),), 3e9, 5),
    ]
