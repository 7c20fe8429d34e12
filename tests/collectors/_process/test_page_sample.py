"""Shares from random pages: every resident page is equally likely, and the stated error is right."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors._process.maps import MemoryMapping
from collectors._process.page_sample import MAX_PAGES, MIN_PAGES, PageSample, TooFewPagesError, draw_sample

PAGE = 4096
Addresses = npt.NDArray[np.uint64]
Nodes = npt.NDArray[np.int32]


class Kernel:
    """Memory with a node for every page, or -2 where it is not resident; records the queried addresses."""

    def __init__(self, regions: list[tuple[str, npt.NDArray[np.int32]]]) -> None:
        self.queried: list[int] = []
        self.mappings: list[MemoryMapping] = []
        self._pages: dict[int, int] = {}
        start = 0x5000_0000_0000
        for kind, nodes in regions:
            self.mappings.append(MemoryMapping(start, start + len(nodes) * PAGE, kind))
            self._pages |= {start + index * PAGE: int(node) for index, node in enumerate(nodes)}
            start += (len(nodes) + 1000) * PAGE  # unmapped gap

    def query_nodes(self, addresses: Addresses) -> Nodes:
        self.queried += addresses.tolist()
        return np.array([self._pages[address] for address in addresses.tolist()], dtype=np.int32)

    def count_pages(self, node: int, kind: str | None = None) -> int:
        return sum(
            self._pages[address] == node
            for mapping in self.mappings
            if kind in (None, mapping.kind)
            for address in range(mapping.start, mapping.end, PAGE)
        )


def draw_nodes(size: int, shares: dict[int, float], seed: int = 1) -> npt.NDArray[np.int32]:
    """Draws this many pages' nodes with these probabilities."""
    random = np.random.default_rng(seed)
    return random.choice(list(shares), size, p=list(shares.values())).astype(np.int32)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["anon", "file", "shmem", "hugetlb"]), st.lists(st.integers(-2, 3), max_size=40)),
        min_size=1,
        max_size=6,
    )
)
def test_a_small_process_is_counted_whole(regions: list[tuple[str, list[int]]]) -> None:
    """Every page of a process up to twice the sample's size is queried once, and the shares are exact."""
    kernel = Kernel([(kind, np.array(nodes, dtype=np.int32)) for kind, nodes in regions])

    placement = draw_sample(kernel.mappings, PAGE, 4096, kernel.query_nodes, np.random.default_rng(1))

    assert len(kernel.queried) == len(set(kernel.queried)) == sum(len(nodes) for _, nodes in regions)
    resident = sum(kernel.count_pages(node) for node in range(4))
    for node in range(4):
        expected = (kernel.count_pages(node) / resident, 0.0) if resident else None
        assert placement.estimate_share([node]) == expected


def test_every_resident_page_is_as_likely() -> None:
    """A mapping's share of the sample follows its resident pages, not its size or position."""
    kernel = Kernel(
        [
            ("anon", draw_nodes(30_000, {-2: 0.9, 0: 0.1})),
            ("file", draw_nodes(10_000, {1: 1.0})),
            ("anon", draw_nodes(10, {2: 1.0})),
            ("shmem", draw_nodes(20_000, {-2: 0.5, 3: 0.5})),
        ]
    )
    placement = draw_sample(kernel.mappings, PAGE, 20_000, kernel.query_nodes, np.random.default_rng(7))
    resident = sum(kernel.count_pages(node) for node in range(4))

    for node in (0, 1, 3):
        share, error = placement.estimate_share([node]) or (0.0, 0.0)
        assert abs(share - kernel.count_pages(node) / resident) < 4 * error
    assert (placement.estimate_share([1], "file") or (0, 0))[0] == 1.0


@pytest.mark.parametrize("truth", [0.0, 0.002, 0.01, 0.07, 0.3, 0.5, 0.92, 0.999, 1.0])
@pytest.mark.parametrize("pages", [400, 4096])
def test_the_error_covers_the_truth(truth: float, pages: int) -> None:
    """By the binomial law, share ± 1.96 errors covers the truth in 93.5 % of samples or more, also near 0 and 1."""

    def covers(hits: int) -> bool:
        share, error = PageSample(
            Counter({(0, "anon"): hits, (1, "anon"): pages - hits}), is_complete=False
        ).estimate_share([0]) or (
            9,
            9,
        )
        return abs(share - truth) <= 1.96 * error

    def likelihood(hits: int) -> float:
        if truth in (0.0, 1.0):
            return float(hits == pages * truth)
        logarithm = math.lgamma(pages + 1) - math.lgamma(hits + 1) - math.lgamma(pages - hits + 1)
        return math.exp(logarithm + hits * math.log(truth) + (pages - hits) * math.log1p(-truth))

    covered = sum(likelihood(hits) for hits in range(pages + 1) if covers(hits))
    assert covered >= (0.935 if pages * min(truth, 1 - truth) >= 5 or truth in (0.0, 1.0) else 0.915)
    if pages * min(truth, 1 - truth) >= 20:
        assert covered <= 0.965


def test_pages_that_are_not_resident_are_drawn_again() -> None:
    """Where one page of ten is resident, more pages are queried until the sample has its size."""
    kernel = Kernel([("anon", draw_nodes(60_000, {-2: 0.9, 0: 0.06, 1: 0.04}))])

    placement = draw_sample(kernel.mappings, PAGE, 1000, kernel.query_nodes, np.random.default_rng(3))

    assert 1000 <= placement.count_pages() < 1500
    assert placement.estimate_share([0]) is not None
    assert (
        abs(
            (placement.estimate_share([0]) or (0, 0))[0]
            - kernel.count_pages(0) / (kernel.count_pages(0) + kernel.count_pages(1))
        )
        < 0.06
    )


def test_a_reservation_that_is_hardly_used_is_not_asked_for_ever() -> None:
    """Where hardly any page is resident, at most MAX_PAGES are queried, and no share is reported."""
    kernel = Kernel([("anon", draw_nodes(200_000, {-2: 0.9998, 0: 0.0002}))])

    with pytest.raises(TooFewPagesError, match=rf"only \d+ of {MAX_PAGES} queried pages are resident"):
        draw_sample(kernel.mappings, PAGE, 4096, kernel.query_nodes, np.random.default_rng(3))
    assert len(kernel.queried) == MAX_PAGES
    assert sum(kernel.query_nodes(np.array(kernel.queried, dtype=np.uint64)) >= 0) < MIN_PAGES


def test_a_sample_of_no_page_has_no_share() -> None:
    """Without resident pages, of all kinds or of one, there is no share rather than 0."""
    assert PageSample(Counter(), is_complete=True).estimate_share([0]) is None
    assert PageSample(Counter({(0, "anon"): 3}), is_complete=True).estimate_share([0], "file") is None


def test_what_the_kernel_refuses_reaches_the_caller() -> None:
    """An error of the query is not mistaken for absent pages."""

    def refuse(_addresses: Addresses) -> Nodes:
        raise PermissionError("no")

    ask: Callable[[Addresses], Nodes] = refuse
    with pytest.raises(PermissionError):
        draw_sample([MemoryMapping(0, 10 * PAGE, "anon")], PAGE, 100, ask, np.random.default_rng(1))
