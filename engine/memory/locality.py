"""The nodes on which the weights really are, by a sample of their pages, beside the option --numa."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.memory.mempolicy import get_page_nodes

SAMPLE_PAGES = 1024  # pages: the kernel answers in 0.3 ms, and a share is exact to 3 % (two standard deviations)


class PageShares(NamedTuple):
    """Shares of the sampled pages by node, or the reason why there are no shares."""

    shares: dict[int, float]
    reason: str = ""


class Locality:
    """The option --numa, the threads by node, and the pages of the weights by node."""

    def __init__(self, numa_option: str | None, arrays: Iterable[NDArray[Any]], threads: dict[int, int]) -> None:
        self.numa_option = numa_option
        self.threads = threads
        self._addresses = _sample_addresses(arrays)

    def sample_shares(self) -> PageShares:
        """Samples the current nodes: pages move after their allocation (kernel.numa_balancing, migratepages(8))."""
        try:
            page_nodes = [node for node in get_page_nodes(self._addresses) if node >= 0]
        except OSError as error:
            return PageShares({}, error.strerror or str(error))
        if not page_nodes:
            return PageShares({}, "the kernel knows none of the pages")
        return PageShares({node: count / len(page_nodes) for node, count in sorted(Counter(page_nodes).items())})

    def describe(self) -> str:
        """Formats the shares and threads for the log."""
        sample = self.sample_shares()
        if sample.reason:
            return f"the nodes of the weights are unknown: {sample.reason}"
        shares = ", ".join(f"{100 * share:.0f} % on node {node}" for node, share in sample.shares.items())
        threads = ", ".join(f"{count} on node {node}" for node, count in self.threads.items())
        return f"{len(self._addresses)} sampled pages of the weights: {shares}" + (
            f"; threads: {threads}" * bool(threads)
        )

    def render_exposition(self) -> str:
        """Renders the share of each node for Prometheus; empty if the shares are unknown."""
        name = "steadytok_reference_weights_pages_ratio"
        lines = [f'{name}{{node="{node}"}} {share!r}\n' for node, share in self.sample_shares().shares.items()]
        header = f"# HELP {name} Share of the weights' pages that are on this node, of a sample.\n# TYPE {name} gauge\n"
        return header + "".join(lines) if lines else ""

    def to_fields(self) -> dict[str, Any]:
        """Returns the fields for the ready line; `weights_pages` is None if the shares are unknown."""
        sample = self.sample_shares()
        pages = {str(node): round(share, 4) for node, share in sample.shares.items()} or None
        threads = {str(node): count for node, count in self.threads.items()}
        return {"asked": self.numa_option, "weights_pages": pages, "threads": threads}


def _sample_addresses(arrays: Iterable[NDArray[Any]]) -> Sequence[int]:
    """Returns addresses at even steps through the concatenation of all arrays."""
    spans = [(int(array.__array_interface__["data"][0]), array.nbytes) for array in arrays]
    ends = np.cumsum([size for _, size in spans])  # (arrays,)
    steps = np.linspace(0, ends[-1], SAMPLE_PAGES, endpoint=False).astype(np.int64)  # (SAMPLE,)
    indexes = np.searchsorted(ends, steps, side="right")  # (SAMPLE,)
    return [
        spans[index][0] + int(step - ends[index]) + spans[index][1] for index, step in zip(indexes, steps, strict=True)
    ]
