"""Where processes have their memory: what we say of it, and what a real kernel counts on its nodes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab import machine
from tests.lab.conftest import gather, stage

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

Saw = Callable[[str], dict[str, Any]]
LAYOUTS = ("bind", "interleave", "by_hand", "huge", "hugetlb", "file", "shmem", "parent", "child")
WITHIN = 0.02  # points, by 8192 pages: 3.6 standard errors, so that of dozens of shares none fails by chance
SHARE = 'steadytok_process_node_share_ratio{{engine="held",node="{}",rank="0"}}'
ERROR = 'steadytok_process_node_share_error_ratio{{engine="held",node="{}",rank="0"}}'
KIND = re.compile(r'steadytok_process_kind_share_ratio\{engine="held",kind="(\w+)",node="(\d+)",rank="0"\}')


@pytest.fixture(
    name="placed", params=[2, pytest.param(8, marks=pytest.mark.eight)], scope="module", ids="{}nodes".format
)
def _placed(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the stage `placements` saw in the machine of two nodes, and by hand in one of eight."""
    if request.param == 2:
        seen: dict[str, Any] = request.getfixturevalue("saw")("placements")
        return seen
    return request.getfixturevalue("eight")("placements")


@pytest.fixture(name="eight", scope="session")
def _eight(tmp_path_factory: pytest.TempPathFactory) -> Saw:
    """What stages saw in a machine of eight nodes."""
    out = gather(tmp_path_factory, machine.EIGHT_NODES, "placements", "refusals")
    return lambda name: stage(out, name)


def by_node(counted: dict[str, int]) -> dict[int, float]:
    """Shares by node of pages counted by `NODE KIND`."""
    pages: Counter[int] = Counter()
    for key, count in counted.items():
        pages[int(key.split()[0])] += count
    return {node: count / pages.total() for node, count in pages.items()}


def shares(series: dict[str, float]) -> dict[str, float]:
    """Whatever tells where pages are."""
    return {name: value for name, value in series.items() if re.search(r"_(?:node|kind)_share|_local_|_sampled", name)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shares_are_what_the_kernel_counts(placed: dict[str, Any], layout: str) -> None:
    """Each node's share is within two points of numa_maps, whatever memory it is and whoever shares it."""
    seen = placed[layout]
    truth = by_node(seen["truth"])

    for node in placed["nodes"]:
        assert seen["series"][SHARE.format(node)] == pytest.approx(truth.get(node, 0.0), abs=WITHIN), node
        assert 0 <= seen["series"][ERROR.format(node)] <= 0.5 / 8192**0.5  # 0 where every page was asked
    assert sum(seen["series"][SHARE.format(node)] for node in placed["nodes"]) == pytest.approx(1.0)
    assert seen["notes"] == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kinds_are_told_apart(placed: dict[str, Any], layout: str) -> None:
    """The share of each kind is that of its own pages: what is bound to a node by hand is there, and nowhere else."""
    seen = placed[layout]
    told = {(kind, int(node)): seen["series"][name] for name in seen["series"] for kind, node in KIND.findall(name)}
    kinds = {key.split()[1] for key in seen["truth"]}

    assert {kind for kind, _ in told} == kinds
    for kind in kinds:
        truth = by_node({key: count for key, count in seen["truth"].items() if key.split()[1] == kind})
        asked = seen["series"][f'steadytok_process_sampled_pages{{engine="held",kind="{kind}",rank="0"}}']
        for node in placed["nodes"]:
            assert told[kind, node] == pytest.approx(truth.get(node, 0.0), abs=4 * 0.5 / asked**0.5), (kind, node)


def test_layouts_are_what_they_are_called(placed: dict[str, Any]) -> None:
    """The processes under test are laid out as their names say: else agreeing with the kernel would show little."""
    last, before, nodes = placed["last"], placed["before"], placed["nodes"]

    def of(layout: str, kind: str) -> dict[int, float]:
        counted = placed[layout]["truth"]
        return by_node({key: count for key, count in counted.items() if key.split()[1] == kind})

    assert of("bind", "anon") == {last: 1.0}
    assert of("interleave", "anon") == pytest.approx(dict.fromkeys(nodes, 1 / len(nodes)), abs=0.05)
    by_hand = placed["by_hand"]["truth"]
    # The interpreter's own thousand pages are wherever it ran when it began.
    assert 42 * 256 <= by_hand[f"{last} anon"] <= 42 * 256 + 1500
    assert 18 * 256 <= by_hand[f"{before} anon"] <= 18 * 256 + 1500
    assert of("hugetlb", "hugetlb") == of("shmem", "shmem") == {last: 1.0}
    assert of("file", "file")[last] > 0.8


def test_the_error_covers_the_truth(placed: dict[str, Any]) -> None:
    """Of a thousand samples 95 % +- 3 % are within 1.96 of their own errors of the truth; their mean is the truth."""
    covered = placed["covered"]
    truth = covered["truth"]

    inside = sum(abs(share - truth) <= 1.96 * error for share, error in covered["shares"])
    assert inside / len(covered["shares"]) == pytest.approx(0.95, abs=0.03)
    mean = sum(share for share, _ in covered["shares"]) / len(covered["shares"])
    assert mean == pytest.approx(truth, abs=0.004)  # five times what a mean of a thousand may be off


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numastat_agrees(placed: dict[str, Any], layout: str) -> None:
    """`numastat -p` has the same share of the whole on each node."""
    words = placed[layout]["numastat"].splitlines()[-1].split()
    *nodes, total = map(float, words[1:]) if len(placed["nodes"]) < 8 else _wide(placed[layout]["numastat"])

    for node, size in zip(placed["nodes"], nodes, strict=True):
        assert placed[layout]["series"][SHARE.format(node)] == pytest.approx(size / total, abs=WITHIN), node


def _wide(text: str) -> Iterator[float]:
    """The totals of a table that numastat has broken into several, for the width of a terminal."""
    for line in text.splitlines():
        if line.startswith("Total "):
            yield from map(float, line.split()[1:])


def test_a_process_that_dies_gives_no_wrong_number(saw: Saw) -> None:
    """Killed at any moment of the look it has no shares and a note, or those it had while it lived."""
    looks = saw("refusals")["dying"]

    for look in looks:
        assert bool(shares(look["series"])) != bool(look["notes"]), look
        assert all(0.0 <= value <= 1.0 or "sampled" in name for name, value in shares(look["series"]).items())
    assert any(look["notes"] for look in looks)


@pytest.mark.parametrize("who", ["zombie", "kernel"])
def test_who_has_no_memory_is_named(saw: Saw, who: str) -> None:
    """A zombie and a thread of the kernel have no series, and a note says why."""
    seen = saw("refusals")[who]

    assert seen["series"] == {}
    assert "has ended, or it is a thread of the kernel" in seen["notes"][0][1]


def test_without_permission_all_but_shares_is_told(saw: Saw) -> None:
    """Who may not ask gets sizes and threads, which anybody may read, and the kernel's refusal as the reason."""
    seen = saw("refusals")["refused"]

    assert shares(seen["series"]) == {}
    assert any("memory_bytes" in name for name in seen["series"])
    assert {reason for _, reason in seen["notes"]} == {"Permission denied"}


def test_another_process_is_not_taken_for_it(saw: Saw) -> None:
    """Who was given its pid by the kernel since it was found is not told as if it were the old one."""
    seen = saw("refusals")["reused"]

    assert seen["same"]
    assert not seen["told"]
    assert seen["notes"][0][1] == "ended, or became another program, during the query"


def test_a_hundred_thousand_mappings_are_read(saw: Saw) -> None:
    """A process whose memory is in 100,000 pieces has right shares."""
    seen = saw("refusals")["pieces"]

    assert seen["mappings"] >= 100_000
    assert seen["series"][SHARE.format(0)] == pytest.approx(by_node(seen["truth"]).get(0, 0.0), abs=WITHIN)
    assert seen["notes"] == []
