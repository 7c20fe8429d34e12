"""On which nodes the weights really are: what the kernel answers for a sample of their pages, beside what was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.memory.mempolicy import nodes_of_pages

SAMPLE = 1024  # pages: the kernel answers in 0.3 ms, and a share is right to 3 % (two standard deviations)


class Taken(NamedTuple):
    """Shares of the sampled pages by node; or why there are none."""

    shares: dict[int, float]
    why_not: str = ""


class Locality:
    """What was asked of NUMA, and where the weights' pages are when one looks."""

    def __init__(self, asked: str | None, arrays: Iterable[NDArray[Any]], threads: dict[int, int]) -> None:
        self.asked = asked
        self.threads = threads
        self._addresses = _spread_over(arrays)

    def taken(self) -> Taken:
        """Looks now: pages move (kernel.numa_balancing, migratepages(8)) after they were placed."""
        try:
            found = [node for node in nodes_of_pages(self._addresses) if node >= 0]
        except OSError as error:
            return Taken({}, error.strerror or str(error))
        if not found:
            return Taken({}, "the kernel knows none of the pages")
        return Taken({node: count / len(found) for node, count in sorted(Counter(found).items())})

    def sentence(self) -> str:
        """For people: what was got."""
        taken = self.taken()
        if taken.why_not:
            return f"where the weights are cannot be told: {taken.why_not}"
        shares = ", ".join(f"{100 * share:.0f} % on node {node}" for node, share in taken.shares.items())
        threads = ", ".join(f"{count} on node {node}" for node, count in self.threads.items())
        return f"{len(self._addresses)} sampled pages of the weights: {shares}" + (
            f"; threads: {threads}" * bool(threads)
        )

    def exposition(self) -> str:
        """For Prometheus: the share of each node; nothing where the kernel does not tell."""
        name = "steadytok_reference_weights_pages_ratio"
        lines = [f'{name}{{node="{node}"}} {share!r}\n' for node, share in self.taken().shares.items()]
        told = f"# HELP {name} Share of the weights' pages that are on this node, of a sample.\n# TYPE {name} gauge\n"
        return told + "".join(lines) if lines else ""

    def fields(self) -> dict[str, Any]:
        """For programs: what was asked and what was got; pages are null where the kernel does not tell."""
        taken = self.taken()
        pages = {str(node): round(share, 4) for node, share in taken.shares.items()} or None
        threads = {str(node): count for node, count in self.threads.items()}
        return {"asked": self.asked, "weights_pages": pages, "threads": threads}


def _spread_over(arrays: Iterable[NDArray[Any]]) -> Sequence[int]:
    """Addresses of pages at even steps through all arrays, as if they lay one behind the other."""
    every = [(int(array.__array_interface__["data"][0]), array.nbytes) for array in arrays]
    ends = np.cumsum([size for _, size in every])  # (arrays,)
    steps = np.linspace(0, ends[-1], SAMPLE, endpoint=False).astype(np.int64)  # (SAMPLE,)
    places = np.searchsorted(ends, steps, side="right")  # (SAMPLE,)
    return [
        every[index][0] + int(step - ends[index]) + every[index][1] for index, step in zip(places, steps, strict=True)
    ]
