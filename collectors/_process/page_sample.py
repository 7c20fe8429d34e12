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

from collectors._process.maps import Mapping

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Addresses = npt.NDArray[np.uint64]
    Nodes = npt.NDArray[np.int32]
    Ask = Callable[[Addresses], Nodes]
    """For each address the node of its page, or a negative number where no page is resident."""

MOST = 65_536  # pages asked of one process in one pass: 25 ms
FEWEST = 100  # resident pages for a share to be told: an error of 5 points
_LEAST_BATCH = 256
_Z = 1.96  # standard errors to each side: 95 %


class Placement(NamedTuple):
    """Resident pages that were asked, by (node, kind); `whole` where every page of the process was."""

    pages: Counter[tuple[int, str]]
    whole: bool

    def share(self, nodes: Sequence[int], kind: str | None = None) -> tuple[float, float] | None:
        """
        (share on these nodes, its standard error), of all pages or of one kind's; None where no page was asked.

        The share +- 1.96 errors covers the truth in 95 of 100 samples, near 0 and 1 too: the error is that of Agresti
        and Coull, who count two pages more on each side. https://doi.org/10.1080/00031305.1998.10480550
        """
        all_pages = self.count(kind)
        if not all_pages:
            return None
        there = sum(n for (node, of), n in self.pages.items() if node in nodes and kind in (None, of))
        if self.whole:
            return there / all_pages, 0.0
        more = all_pages + _Z**2
        middle = (there + _Z**2 / 2) / more
        return there / all_pages, math.sqrt(middle * (1 - middle) / more)

    def count(self, kind: str | None = None) -> int:
        """The pages that were asked and are resident, of all kinds or of one."""
        return sum(n for (_, of), n in self.pages.items() if kind in (None, of))


class TooFewError(Exception):
    """So few of the mapped pages are resident that their shares cannot be told; the message has both counts."""


def draw(mapped: Sequence[Mapping], page: int, wanted: int, ask: Ask, random: np.random.Generator) -> Placement:
    """
    Asks until so many resident pages are found, or MOST were asked; `page` is the size of one in bytes.

    Raises TooFewError, and whatever `ask` raises.
    """
    import numpy as np

    # The first page of each mapping, counted through all of them, and where the last one ends.
    firsts = np.array([0, *itertools.accumulate((m.end - m.start) // page for m in mapped)], dtype=np.int64)
    starts = np.array([m.start for m in mapped], dtype=np.uint64)
    kinds = sorted({m.kind for m in mapped})
    kind_of = np.array([kinds.index(m.kind) for m in mapped], dtype=np.int64)
    pages: Counter[tuple[int, str]] = Counter()

    def look(numbers: npt.NDArray[np.int64]) -> int:
        place = np.searchsorted(firsts, numbers, side="right") - 1
        nodes = ask(starts[place] + (numbers - firsts[place]).astype(np.uint64) * np.uint64(page))
        there = nodes >= 0
        both, counts = np.unique(nodes[there] * len(kinds) + kind_of[place[there]], return_counts=True)
        for number, count in zip(both.tolist(), counts.tolist(), strict=True):
            pages[number // len(kinds), kinds[number % len(kinds)]] += count
        return int(there.sum())

    total = int(firsts[-1])
    if total <= 2 * wanted:
        look(np.arange(total))
        return Placement(pages, whole=True)
    found = asked = 0
    while found < wanted and asked < MOST:
        # The next batch is as large as the last ones promise; sorted, because neighbours share page tables.
        batch = wanted if not asked else min(MOST, math.ceil((wanted - found) * asked / max(found, 1)))
        batch = min(max(batch, _LEAST_BATCH), MOST - asked)
        found += look(np.sort(random.integers(0, total, batch)))
        asked += batch
    if found < FEWEST:
        raise TooFewError(f"only {found} of {asked} pages asked are resident, too few to tell where they are")
    return Placement(pages, whole=False)
