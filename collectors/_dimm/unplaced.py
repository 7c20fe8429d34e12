"""Names the sensors that belong to no slot, and lists them for `steadytok check`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collectors._host.sample import Sample, gauge

UNPLACED = gauge(
    "steadytok_dimm_unplaced_info",
    "A sensor that fits no slot of the firmware's table, or is no module's, and why; steadytok check lists them.",
)
_MAX_LINES = 12  # the sensors of a large host must not push the next collector off the screen


def list_unplaced(samples: Sequence[Sample]) -> Iterator[str]:
    """Yields each sensor without a slot, under its name in collectors.dimm.names, with the reason; then the remedy."""
    unplaced = [dict(sample.labels) for sample in samples if sample.metric == UNPLACED]
    for labels in unplaced[:_MAX_LINES]:
        yield f"unplaced  {labels['source']}/{labels['sensor']}: {labels['reason']}"
    if unplaced:
        more = f"{len(unplaced) - _MAX_LINES} more; " if len(unplaced) > _MAX_LINES else ""
        yield f"{more}collectors.dimm.names in the configuration can assign each to its slot"
