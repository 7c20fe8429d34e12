"""What a sample of a process's pages says: shares by node, each with its standard error, as Readings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from collectors._host.sample import Metric, Reading, gauge
from collectors._process.maps import KINDS
from collectors._process.page_sample import Placement

NODE_SHARE = gauge(
    "steadytok_process_node_share_ratio", "Share of the process's resident pages that are on the node, by a sample."
)
NODE_SHARE_ERROR = gauge(
    "steadytok_process_node_share_error_ratio", "Standard error of that share, 0 if all were asked."
)
KIND_SHARE = gauge(
    "steadytok_process_kind_share_ratio",
    "Of the process's resident pages of one kind of mapping (anon, file, shmem, hugetlb) the share on the node.",
)
KIND_SHARE_ERROR = gauge(
    "steadytok_process_kind_share_error_ratio", "Standard error of that share, 0 if all were asked."
)
SAMPLED = gauge("steadytok_process_sampled_pages", "Resident pages behind the shares, by kind of mapping.")
LOCAL = gauge(
    "steadytok_process_local_ratio",
    "Share of the process's resident pages that are on the nodes where its threads run: those with 5 % or more of "
    "its processor time.",
)
LOCAL_ERROR = gauge("steadytok_process_local_error_ratio", "Standard error of the local share, 0 if all were asked.")
SHARES = (NODE_SHARE, NODE_SHARE_ERROR, KIND_SHARE, KIND_SHARE_ERROR, SAMPLED, LOCAL, LOCAL_ERROR)

_WORKS = 0.05  # of the processor time: less than this is an interrupt's thread or a stray one


def of_pages(
    placement: Placement, known: Sequence[str], ticks: Counter[str] | None, who: dict[str, str]
) -> Iterator[Reading]:
    """Every share with its error; `ticks` is the processor time of the threads by node, where that is known."""
    for kind in (kind for kind in KINDS if placement.count(kind)):
        yield SAMPLED.sample(placement.count(kind), **who, kind=kind)
        for node in known:
            share = placement.share([int(node)], kind)
            yield from _estimate(KIND_SHARE, KIND_SHARE_ERROR, share, **who, kind=kind, node=node)
    for node in known:
        yield from _estimate(NODE_SHARE, NODE_SHARE_ERROR, placement.share([int(node)]), **who, node=node)
    if ticks is not None and ticks.total():
        worked = [int(node) for node, spent in ticks.items() if spent >= _WORKS * ticks.total()]
        yield from _estimate(LOCAL, LOCAL_ERROR, placement.share(worked), **who)


def _estimate(share: Metric, error: Metric, value: tuple[float, float] | None, **labels: str) -> Iterator[Reading]:
    if value is not None:
        yield share.sample(value[0], **labels)
        yield error.sample(value[1], **labels)
