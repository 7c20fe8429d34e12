"""The real agent on a real kernel: its metrics and alerts while hardware comes, goes, and runs out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.lab.conftest import StageReader
from tests.lab.guest_agent import VICTIM

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]

CONSTRAINTS = ("none", "cpuset", "memory_policy", "memcg")


class ReceivedAlert(NamedTuple):
    """An alert as received; `ended` is true if its end was in the past at receipt."""

    at: float
    labels: dict[str, str]
    annotations: dict[str, str]
    ended: bool


@pytest.fixture(name="life")
def _life(read_stage: StageReader) -> dict[str, Any]:
    return read_stage("agent")


def get_mark(life: dict[str, Any], name: str) -> float:
    """Returns the Unix time of a mark; fails the test if there is none."""
    times: dict[str, float] = {name: at for at, name in life["marks"]}
    assert name in times, sorted(times)
    return times[name]


def between(life: dict[str, Any], start: str, end: str) -> list[dict[str, float]]:
    """Returns the scrapes between two marks."""
    return [series for at, series in life["scrapes"] if get_mark(life, start) < at < get_mark(life, end)]


def list_received(life: dict[str, Any], name: str) -> Iterator[ReceivedAlert]:
    """Returns the messages about an alert, in order."""
    for at, alerts in life["posts"]:
        for alert in alerts:
            if alert["labels"]["alertname"] == name:
                ended = datetime.fromisoformat(alert["endsAt"]).timestamp() <= at
                yield ReceivedAlert(at, alert["labels"], alert["annotations"], ended)


def test_everything_happened(life: dict[str, Any]) -> None:
    """The agent starts, exposes each change in time, and ends with status 0 after SIGTERM."""
    assert [name for _, name in life["marks"] if name.startswith("NOT")] == []
    assert life["status"] == 0


def test_it_says_nothing_alarming_of_itself(life: dict[str, Any], machine_ran: Path) -> None:
    """The agent's log has no error and no traceback."""
    log = (machine_ran / "agent.log").read_text()

    assert re.findall(r'.*(?:Traceback|"level":"(?:error|critical)").*', log) == []


def test_a_cpu_that_left_is_gone_and_nothing_else_is(life: dict[str, Any]) -> None:
    """While CPU 3 is offline its policy has no series, its node has one CPU, and its neighbours keep theirs."""
    offline = between(life, "cpu3 0 exposed", "cpu3 1")

    assert offline
    for series in offline[1:]:  # the first may be from a pass that began earlier
        assert not any('policy="3"' in name for name in series)
        assert 'steadytok_cpufreq_frequency_hertz{node="1",policy="2"}' in series
        assert series['steadytok_stat_cpus_online{node="1"}'] == 1
        assert series['steadytok_stat_cpus_online{node="0"}'] == 2


def test_a_cpu_that_came_back_is_back(life: dict[str, Any]) -> None:
    """After CPU 3 is online again, all its series are back."""
    newest = between(life, "cpu3 1 exposed", "SIGTERM")[-1]

    assert newest['steadytok_topology_node_cpus{node="1"}'] == 2
    assert newest['steadytok_stat_cpus_online{node="1"}'] == 2
    assert 'steadytok_cpufreq_frequency_hertz{node="1",policy="3"}' in newest


def test_counters_never_fall(life: dict[str, Any]) -> None:
    """While CPUs leave and return, no counter falls between two scrapes."""
    fallen = [
        name
        for (_, earlier), (_, later) in itertools.pairwise(life["scrapes"])
        for name in earlier.keys() & later.keys()
        if name.split("{")[0].endswith("_total") and later[name] < earlier[name]
    ]

    assert fallen == []


@pytest.mark.parametrize("node", ["0", "1"])
def test_no_processor_time_is_invented(life: dict[str, Any], node: str) -> None:
    """Two CPUs have no more than two seconds in a second, also while one leaves and returns."""
    sums = []
    for at, series in life["scrapes"]:
        modes = [value for name, value in series.items() if "stat_cpu_seconds" in name and f'node="{node}"' in name]
        if modes:  # user time includes guest time, which is 0 here
            sums.append((at, sum(modes)))
    (began, first), (ended, last) = sums[0], sums[-1]

    assert 0 < last - first < 2 * (ended - began) + 10  # the value at `began` may be seconds old


def test_memory_that_left_is_gone(life: dict[str, Any]) -> None:
    """A block of memory that goes offline is missing from its own node's size alone, until it is online again."""
    name = 'steadytok_topology_node_memory_bytes{{node="{}"}}'
    before, after = between(life, "first DIMM", "memory 0")[-1], between(life, "memory 1 exposed", "SIGTERM")[-1]
    series = [
        series for at, series in life["scrapes"] if get_mark(life, "memory 0") < at < get_mark(life, "memory 1 exposed")
    ]

    assert min(scrape[name.format(1)] for scrape in series) == before[name.format(1)] - (128 << 20)
    assert {scrape[name.format(0)] for scrape in series} == {before[name.format(0)]}
    assert after[name.format(1)] == before[name.format(1)]


def test_kills_are_counted_by_their_constraint(life: dict[str, Any]) -> None:
    """The real kernel kills one process of each kind, and one of each is counted."""
    newest = life["scrapes"][-1][1]

    assert {
        constraint: newest[f'steadytok_kmsg_oom_kills_total{{constraint="{constraint}"}}'] for constraint in CONSTRAINTS
    } == dict.fromkeys(CONSTRAINTS, 1)


def test_each_kill_names_its_victim(life: dict[str, Any]) -> None:
    """Victim, nodes and cgroup are right for any process name, and later kills do not change them."""
    name = "steadytok_kmsg_last_oom_kill_timestamp_seconds"
    newest = life["scrapes"][-1][1]
    expected = {
        "none": f'cgroup="/",constraint="none",victim="{VICTIM}"',
        "cpuset": f'cgroup="/pinned",constraint="cpuset",nodes="1",victim="{VICTIM}"',
        "memory_policy": f'cgroup="/",constraint="memory_policy",nodes="1",victim="{VICTIM}"',
        "memcg": f'cgroup="/small,one",constraint="memcg",victim="{VICTIM}"',
    }

    assert {series for series in newest if series.startswith(name)} == {
        f"{name}{{{labels}}}" for labels in expected.values()
    }
    for constraint, labels in expected.items():
        at = get_mark(life, f"killed {constraint} -9")
        assert newest[f"{name}{{{labels}}}"] == pytest.approx(at, abs=10)  # the kernel may reap it later


def test_each_kill_is_sent(life: dict[str, Any]) -> None:
    """An alert OomKill of each kind is sent, with the victim in its summary."""
    named = {
        alert.labels["constraint"] for alert in list_received(life, "OomKill") if VICTIM in alert.annotations["summary"]
    }

    assert named == set(CONSTRAINTS)


def test_a_later_kill_ends_no_earlier_one(life: dict[str, Any]) -> None:
    """Four kills are four alerts: a kill of one kind neither ends nor changes the alert about another."""
    alerts = list(list_received(life, "OomKill"))

    assert len({tuple(sorted(alert.labels.items())) for alert in alerts}) == len(CONSTRAINTS)
    assert [alert for alert in alerts if alert.ended] == []


def test_counters_that_stand_still_leave(life: dict[str, Any]) -> None:
    """Under vm.numa_stat=0 the allocation counters leave /metrics; none is exposed as 0."""
    stopped = between(life, "numastat gone", "numa_stat 1")

    assert stopped
    assert [name for series in stopped for name in series if "numastat" in name and "_total" in name] == []
    assert all(series['steadytok_collector_success{collector="numastat"}'] == 0 for series in stopped)


def test_a_hot_dimm_is_pending_then_sent(life: dict[str, Any]) -> None:
    """The built-in DimmHot is pending while the DIMM is above its limit, then is sent once as critical."""
    state = 'steadytok_lab_alerts{{alertname="DimmHot",alertstate="{}",dimm="{}",severity="critical"}}'
    first = next(list_received(life, "DimmHot"))
    waiting = [series for at, series in life["scrapes"] if at < first.at]

    assert (first.labels["severity"], first.ended) == ("critical", False)
    assert "3.0 °C above its limit" in first.annotations["summary"]
    assert any(state.format("pending", first.labels["dimm"]) in series for series in waiting)
    assert not any(state.format("firing", first.labels["dimm"]) in series for series in waiting[:-2])


def test_standing_still_resets_no_alert(life: dict[str, Any]) -> None:
    """An agent that was stopped for longer than a sensor's staleness continues its pending alert."""
    start, end = get_mark(life, "DimmHot pending"), next(list_received(life, "DimmHot")).at
    scrapes = [series for at, series in life["scrapes"] if start < at < end]

    assert all(any('alertname="DimmHot"' in name for name in series) for series in scrapes)


def test_an_operators_rule_lives_its_whole_life(life: dict[str, Any]) -> None:
    """The operator's rule fires for the hot DIMM alone, and its end is sent once the DIMM is cool."""
    alerts = list(list_received(life, "LabHot"))

    assert len({alert.labels["dimm"] for alert in alerts}) == 1
    assert not alerts[0].ended
    assert [alert for alert in alerts if alert.ended and alert.at < get_mark(life, "cool")] == []
    assert any(alert.ended for alert in alerts)


def test_leaving_ends_no_alert(life: dict[str, Any]) -> None:
    """An agent that ends does not send an end of its alerts."""
    assert [alert for alert in list_received(life, "DimmHot") if alert.ended] == []
