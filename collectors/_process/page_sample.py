"""
Shares of a process's resident pages by node, from a random sample of them; and how far a share may be off.

Pages are drawn from all that is mapped, each as likely as any other, and those that are not resident are drawn again:
what remains is a simple random sample of the resident pages, whatever their size and kind. So the count of each node
is binomial, which is where the error comes from. Of a process that is small every page is asked, and nothing is off.
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
    """For each address the node of its page, or a negative number where no page is resident."""

MAX_PAGES = 65_536  # pages asked of one process in one pass: 25 ms
MIN_PAGES = 100  # resident pages for a share to be told: an error of 5 points
_MIN_BATCH = 256
_Z = 1.96  # standard errors to each side: 95 %


class PageSample(NamedTuple):
    """Resident pages that were asked, by (node, kind); `whole` where every page of the process was."""

    pages: Counter[tuple[int, str]]
    is_complete: bool

    def estimate_share(self, nodes: Sequence[int], kind: str | None = None) -> tuple[float, float] | None:
        """
        (share on these nodes, its standard error), of all pages or of one kind's; None where no page was asked.

        The share +- 1.96 errors covers the truth in 95 of 100 samples, near 0 and 1 too: the error is that of Agresti
        and Coull, who count two pages more on each side. https://doi.org/10.1080/00031305.1998.10480550
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
        """The pages that were asked and are resident, of all kinds or of one."""
        return sum(n for (_, page_kind), n in self.pages.items() if kind in (None, page_kind))


class TooFewPagesError(Exception):
    """So few of the mapped pages are resident that their shares cannot be told; the message has both counts."""


def draw_sample(
    mappings: Sequence[MemoryMapping],
    page_size: int,
    target: int,
    query_nodes: QueryNodes,
    generator: np.random.Generator,
) -> PageSample:
    """
    Asks until so many resident pages are found, or MOST were asked; `page` is the size of one in bytes.

    Raises TooFewError, and whatever `ask` raises.
    """
    import numpy as np

    # The first page of each mapping, counted through all of them, and where the last one ends.
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
        # The next batch is as large as the last ones promise; sorted, because neighbours share page tables.
        batch = target if not queried else min(MAX_PAGES, math.ceil((target - resident) * queried / max(resident, 1)))
        batch = min(max(batch, _MIN_BATCH), MAX_PAGES - queried)
        resident += query_pages(np.sort(generator.integers(0, total, batch)))
        queried += batch
    if resident < MIN_PAGES:
        raise TooFewPagesError(f"only {resident} of {queried} pages asked are resident, too few to tell where they are")
    return PageSample(pages, is_complete=False)
