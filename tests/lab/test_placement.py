"""The placement of processes' memory by our collector agrees with the kernel's own counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import machine
from tests.lab.conftest import StageReader, read_result, run_machine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]

LAYOUTS = ("bind", "interleave", "by_hand", "huge", "hugetlb", "file", "shmem", "parent", "child")
WITHIN = 0.02  # by 8192 pages: 3.6 standard errors, so that none of dozens of shares fails by chance
SHARE = 'steadytok_process_node_share_ratio{{engine="held",node="{}",rank="0"}}'
ERROR = 'steadytok_process_node_share_error_ratio{{engine="held",node="{}",rank="0"}}'
KIND = re.compile(r'steadytok_process_kind_share_ratio\{engine="held",kind="(\w+)",node="(\d+)",rank="0"\}')


@pytest.fixture(
    name="placements", params=[2, pytest.param(8, marks=pytest.mark.eight)], scope="module", ids="{}nodes".format
)
def _placements(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The results of the stage `placements` on two nodes, and on eight if those tests are selected."""
    if request.param == 2:
        result: dict[str, Any] = request.getfixturevalue("read_stage")("placements")
        return result
    return request.getfixturevalue("eight")("placements")


@pytest.fixture(name="eight", scope="session")
def _eight(tmp_path_factory: pytest.TempPathFactory) -> StageReader:
    """Reads the results of a stage in a machine of eight nodes."""
    out = run_machine(tmp_path_factory, machine.EIGHT_NODES, "placements", "refusals")
    return lambda name: read_result(out, name)


def by_node(counted: dict[str, int]) -> dict[int, float]:
    """Returns the shares by node of pages counted by `NODE KIND`."""
    pages: Counter[int] = Counter()
    for key, count in counted.items():
        pages[int(key.split()[0])] += count
    return {node: count / pages.total() for node, count in pages.items()}


def shares(series: dict[str, float]) -> dict[str, float]:
    """Returns the series about the placement of pages."""
    return {name: value for name, value in series.items() if re.search(r"_(?:node|kind)_share|_local_|_sampled", name)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shares_are_what_the_kernel_counts(placements: dict[str, Any], layout: str) -> None:
    """Each node's share is within two points of numa_maps, for every kind of memory, shared or not."""
    result = placements[layout]
    truth = by_node(result["truth"])

    for node in placements["nodes"]:
        assert result["series"][SHARE.format(node)] == pytest.approx(truth.get(node, 0.0), abs=WITHIN), node
        assert 0 <= result["series"][ERROR.format(node)] <= 0.5 / 8192**0.5  # 0 if every page was sampled
    assert sum(result["series"][SHARE.format(node)] for node in placements["nodes"]) == pytest.approx(1.0)
    assert result["notes"] == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kinds_are_distinguished(placements: dict[str, Any], layout: str) -> None:
    """The share of each kind is that of its own pages: memory bound to a node is on that node alone."""
    result = placements[layout]
    kind_shares = {
        (kind, int(node)): result["series"][name] for name in result["series"] for kind, node in KIND.findall(name)
    }
    kinds = {key.split()[1] for key in result["truth"]}

    assert {kind for kind, _ in kind_shares} == kinds
    for kind in kinds:
        truth = by_node({key: count for key, count in result["truth"].items() if key.split()[1] == kind})
        sampled_pages = result["series"][f'steadytok_process_sampled_pages{{engine="held",kind="{kind}",rank="0"}}']
        for node in placements["nodes"]:
            assert kind_shares[kind, node] == pytest.approx(truth.get(node, 0.0), abs=4 * 0.5 / sampled_pages**0.5), (
                kind,
                node,
            )


def test_layouts_are_what_they_are_called(placements: dict[str, Any]) -> None:
    """The processes under test are laid out as their names say, so that agreement with the kernel has a meaning."""
    last, before, nodes = placements["last"], placements["before"], placements["nodes"]

    def of(layout: str, kind: str) -> dict[int, float]:
        counted = placements[layout]["truth"]
        return by_node({key: count for key, count in counted.items() if key.split()[1] == kind})

    assert of("bind", "anon") == {last: 1.0}
    assert of("interleave", "anon") == pytest.approx(dict.fromkeys(nodes, 1 / len(nodes)), abs=0.05)
    by_hand = placements["by_hand"]["truth"]
    # The interpreter's own thousand pages are on the node of its start.
    assert 42 * 256 <= by_hand[f"{last} anon"] <= 42 * 256 + 1500
    assert 18 * 256 <= by_hand[f"{before} anon"] <= 18 * 256 + 1500
    assert of("hugetlb", "hugetlb") == of("shmem", "shmem") == {last: 1.0}
    assert of("file", "file")[last] > 0.8


def test_the_error_covers_the_truth(placements: dict[str, Any]) -> None:
    """95 % +- 3 % of a thousand samples are within 1.96 of their own errors of the truth; their mean is the truth."""
    covered = placements["covered"]
    truth = covered["truth"]

    inside = sum(abs(share - truth) <= 1.96 * error for share, error in covered["shares"])
    assert inside / len(covered["shares"]) == pytest.approx(0.95, abs=0.03)
    mean = sum(share for share, _ in covered["shares"]) / len(covered["shares"])
    assert mean == pytest.approx(truth, abs=0.004)  # five times the error of a mean of a thousand


@pytest.mark.parametrize("layout", LAYOUTS)
def test_numastat_agrees(placements: dict[str, Any], layout: str) -> None:
    """`numastat -p` has the same share on each node."""
    words = placements[layout]["numastat"].splitlines()[-1].split()
    *nodes, total = map(float, words[1:]) if len(placements["nodes"]) < 8 else _wide(placements[layout]["numastat"])

    for node, size in zip(placements["nodes"], nodes, strict=True):
        assert placements[layout]["series"][SHARE.format(node)] == pytest.approx(size / total, abs=WITHIN), node


def _wide(text: str) -> Iterator[float]:
    """Returns the totals of a table that numastat splits for the width of a terminal."""
    for line in text.splitlines():
        if line.startswith("Total "):
            yield from map(float, line.split()[1:])


def test_a_process_that_dies_gives_no_wrong_number(read_stage: StageReader) -> None:
    """A process killed during a reading has no shares and a note, or its last shares."""
    looks = read_stage("refusals")["dying"]

    for collected in looks:
        assert bool(shares(collected["series"])) != bool(collected["notes"]), collected
        assert all(0.0 <= value <= 1.0 or "sampled" in name for name, value in shares(collected["series"]).items())
    assert any(collected["notes"] for collected in looks)


@pytest.mark.parametrize("who", ["zombie", "kernel"])
def test_who_has_no_memory_is_named(read_stage: StageReader, who: str) -> None:
    """A zombie and a kernel thread have no series, and a note has the reason."""
    result = read_stage("refusals")[who]

    assert result["series"] == {}
    assert "has ended, or is a kernel thread" in result["notes"][0][1]


def test_without_permission_all_but_shares_is_exposed(read_stage: StageReader) -> None:
    """A user without permission gets sizes and threads, which are public, and the kernel's refusal as a note."""
    result = read_stage("refusals")["refused"]

    assert shares(result["series"]) == {}
    assert any("memory_bytes" in name for name in result["series"])
    assert {reason for _, reason in result["notes"]} == {"Permission denied"}


def test_another_process_is_not_taken_for_it(read_stage: StageReader) -> None:
    """A process with a reused pid is not reported as the old one."""
    result = read_stage("refusals")["reused"]

    assert result["same"]
    assert not result["has_placement"]
    assert result["notes"][0][1] == "ended, or became another program, during the query"


def test_a_hundred_thousand_mappings_are_read(read_stage: StageReader) -> None:
    """A process whose memory is in 100,000 mappings has right shares."""
    result = read_stage("refusals")["pieces"]

    assert result["mappings"] >= 100_000
    assert result["series"][SHARE.format(0)] == pytest.approx(by_node(result["truth"]).get(0, 0.0), abs=WITHIN)
    assert result["notes"] == []
