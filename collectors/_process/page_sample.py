"""
Estimates the shares of a process's resident pages by node, and their errors, from a random sample.

Pages are drawn from all mapped pages with equal probability; pages that are not resident are drawn again. The result is
a simple random sample of the resident pages of any size and kind. The count of each node is therefore binomial, and the
error follows from that. Of a small process every page is queried, so the error is 0.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from collectors._process.maps import MemoryMapping

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Addresses = npt.NDArray[np.uint64]
    Nodes = npt.NDArray[np.int32]
    QueryNodes = Callable[[Addresses], Nodes]
    """Returns the node of the page at each address, or a negative number where no page is resident."""

MAX_PAGES = 65_536  # pages queried of one process in one pass: 25 ms
MIN_PAGES = 100  # resident pages needed for a share: an error of 5 points
_MIN_BATCH = 256
_Z = 1.96  # standard errors to each side: 95 %


class PageSample(NamedTuple):
    """Resident pages that were queried, by (node, kind), and whether every page of the process was."""

    pages: Counter[tuple[int, str]]
    is_complete: bool

    def estimate_share(self, nodes: Sequence[int], kind: str | None = None) -> tuple[float, float] | None:
        """
        Returns (share on these nodes, its standard error) of all pages or of one kind; None without any page.

        The share ± 1.96 errors covers the true share in 95 of 100 samples, also near 0 and 1. The error is Agresti and
        Coull's, who count two more pages on each side. https://doi.org/10.1080/00031305.1998.10480550
        """
        all_pages = self.count_pages(kind)
        if not all_pages:
            return None
        on_nodes = sum(n for (node, page_kind), n in self.pages.items() if node in nodes and kind in (None, page_kind))
        if self.is_complete:
            return on_nodes / all_pages, 0.0
        adjusted_total = all_pages + _Z**2
        adjusted_share = (on_nodes + _Z**2 / 2) / adjusted_total
        return on_nodes / all_pages, math.sqrt(adjusted_share * (1 - adjusted_share) / adjusted_total)

    def count_pages(self, kind: str | None = None) -> int:
        """Returns the number of resident pages in the sample, of all kinds or of one."""
        return sum(n for (_, page_kind), n in self.pages.items() if kind in (None, page_kind))


class TooFewPagesError(Exception):
    """Too few of the mapped pages are resident to estimate shares; the message has both counts."""


def draw_sample(
    mappings: Sequence[MemoryMapping],
    page_size: int,
    target: int,
    query_nodes: QueryNodes,
    generator: np.random.Generator,
) -> PageSample:
    """
    Queries pages until `target` resident ones are found, or MAX_PAGES were queried; `page_size` is in bytes.

    Raises TooFewPagesError, and every error of `query_nodes`.
    """
    import numpy as np

    # Each mapping's first page, numbered through all mappings; the last entry is the end of the last one.
    firsts = np.array([0, *itertools.accumulate((m.end - m.start) // page_size for m in mappings)], dtype=np.int64)
    starts = np.array([m.start for m in mappings], dtype=np.uint64)
    kinds = sorted({m.kind for m in mappings})
    kind_of = np.array([kinds.index(m.kind) for m in mappings], dtype=np.int64)
    pages: Counter[tuple[int, str]] = Counter()

    def query_pages(numbers: npt.NDArray[np.int64]) -> int:
        mapping_indices = np.searchsorted(firsts, numbers, side="right") - 1
        nodes = query_nodes(
            starts[mapping_indices] + (numbers - firsts[mapping_indices]).astype(np.uint64) * np.uint64(page_size)
        )
        is_resident = nodes >= 0
        node_kinds, counts = np.unique(
            nodes[is_resident] * len(kinds) + kind_of[mapping_indices[is_resident]], return_counts=True
        )
        for number, count in zip(node_kinds.tolist(), counts.tolist(), strict=True):
            pages[number // len(kinds), kinds[number % len(kinds)]] += count
        return int(is_resident.sum())

    total = int(firsts[-1])
    if total <= 2 * target:
        query_pages(np.arange(total))
        return PageSample(pages, is_complete=True)
    resident = queried = 0
    while resident < target and queried < MAX_PAGES:
        # Past batches determine the size of the next one. Sorted, because neighbours share page tables.
        batch = target if not queried else min(MAX_PAGES, math.ceil((target - resident) * queried / max(resident, 1)))
        batch = min(max(batch, _MIN_BATCH), MAX_PAGES - queried)
        resident += query_pages(np.sort(generator.integers(0, total, batch)))
        queried += batch
    if resident < MIN_PAGES:
        raise TooFewPagesError(f"only {resident} of {queried} queried pages are resident, too few to estimate shares")
    return PageSample(pages, is_complete=False)
