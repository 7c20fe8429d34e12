"""Turns a sample of a process's pages into Readings: shares by node, each with its standard error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from collectors._host.sample import Metric, Reading, gauge
from collectors._process.maps import KINDS
from collectors._process.page_sample import PageSample

NODE_SHARE = gauge(
    "steadytok_process_node_share_ratio", "Share of the process's resident pages that are on the node, by a sample."
)
NODE_SHARE_ERROR = gauge(
    "steadytok_process_node_share_error_ratio", "Standard error of that share, 0 if all were queried."
)
KIND_SHARE = gauge(
    "steadytok_process_kind_share_ratio",
    "Of the process's resident pages of one kind of mapping (anon, file, shmem, hugetlb) the share on the node.",
)
KIND_SHARE_ERROR = gauge(
    "steadytok_process_kind_share_error_ratio", "Standard error of that share, 0 if all were queried."
)
SAMPLED = gauge("steadytok_process_sampled_pages", "Resident pages behind the shares, by kind of mapping.")
LOCAL = gauge(
    "steadytok_process_local_ratio",
    "Share of the process's resident pages that are on the nodes where its threads run: those with 5 % or more of "
    "its processor time.",
)
LOCAL_ERROR = gauge("steadytok_process_local_error_ratio", "Standard error of the local share, 0 if all were queried.")
SHARES = (NODE_SHARE, NODE_SHARE_ERROR, KIND_SHARE, KIND_SHARE_ERROR, SAMPLED, LOCAL, LOCAL_ERROR)

_MIN_BUSY_SHARE = 0.05  # of the processor time: less than this is an interrupt's thread or a stray one


def collect_shares(
    page_sample: PageSample, node_ids: Sequence[str], ticks: Counter[str] | None, labels: dict[str, str]
) -> Iterator[Reading]:
    """Yields every share with its error; `ticks` is the threads' processor time by node, where it is known."""
    for kind in (kind for kind in KINDS if page_sample.count_pages(kind)):
        yield SAMPLED.sample(page_sample.count_pages(kind), **labels, kind=kind)
        for node in node_ids:
            share = page_sample.estimate_share([int(node)], kind)
            yield from _make_readings(KIND_SHARE, KIND_SHARE_ERROR, share, **labels, kind=kind, node=node)
    for node in node_ids:
        yield from _make_readings(
            NODE_SHARE, NODE_SHARE_ERROR, page_sample.estimate_share([int(node)]), **labels, node=node
        )
    if ticks is not None and ticks.total():
        busy_nodes = [int(node) for node, spent in ticks.items() if spent >= _MIN_BUSY_SHARE * ticks.total()]
        yield from _make_readings(LOCAL, LOCAL_ERROR, page_sample.estimate_share(busy_nodes), **labels)


def _make_readings(share: Metric, error: Metric, value: tuple[float, float] | None, **labels: str) -> Iterator[Reading]:
    if value is not None:
        yield share.sample(value[0], **labels)
        yield error.sample(value[1], **labels)
