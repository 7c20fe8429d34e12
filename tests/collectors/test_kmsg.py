"""The traps of the kernel log: its writers, records that come once, kills with two lines, overruns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest

from collectors import Host, Reading, kmsg

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
KILL = (
    "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0-1,global_oom,"
    "task_memcg=/x,task=python3,pid=123,uid=0"
)
KILLED = "Out of memory: Killed process 123 (python3) total-vm:1kB, anon-rss:1kB"


def _make_log(*texts: str, first: int = 1, priority: int = 6) -> dict[str, str]:
    records = (f"{priority},{first + number},{1000 + number},-;{text}" for number, text in enumerate(texts))
    return {"dev/kmsg": "\n".join(records), "proc/stat": "cpu  1 0 0 0\nbtime 1760000000"}


def _select_kills(values: Mapping[str, float]) -> dict[str, float]:
    return {name.split('"')[1]: value for name, value in values.items() if "kmsg_oom_kills_total" in name and value}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KILL, kmsg.Kill("none", "", "python3", "/x", "123")),
        (
            "oom-kill:constraint=CONSTRAINT_MEMORY_POLICY,nodemask=0,2-3,cpuset=vllm,mems_allowed=0-7,global_oom,"
            "task_memcg=/system.slice/v.service,task=VLLM::Worker, a,pid=7,uid=1000",
            kmsg.Kill("memory_policy", "0,2-3", "VLLM::Worker, a", "/system.slice/v.service", "7"),
        ),
        (
            "oom-kill:constraint=CONSTRAINT_CPUSET,nodemask=(null),cpuset=a,b,mems_allowed=1,3,global_oom,"
            "task_memcg=/,task=llama-server,pid=7,uid=0",
            kmsg.Kill("cpuset", "1,3", "llama-server", "/", "7"),
        ),
        (
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,b,"
            "task_memcg=/a,b/c,task=x,pid=7,uid=0",
            kmsg.Kill("memcg", "", "x", "/a,b", "7"),
        ),
        (
            "Memory cgroup out of memory: Killed process 9 (node (x)) total-vm:1kB",
            kmsg.Kill("memcg", "", "node (x", "", "9"),
        ),
        (
            "Out of memory: Kill process 9 (python3) score 900 or sacrifice child",
            kmsg.Kill("none", "", "python3", "", "9"),
        ),
        ("python3 invoked oom-killer: gfp_mask=0x140cca, order=0, oom_score_adj=0", None),
        ("Killed process 9 (python3) total-vm:1kB", None),
    ],
)
def test_kills_are_understood(text: str, expected: kmsg.Kill | None) -> None:
    """Constraint, nodes, victim and cgroup come from the kernel's own lines, old and new."""
    assert kmsg.parse_kill(text) == expected


def test_a_kill_logged_twice_is_one_kill(machine: Machine, series: Series) -> None:
    """The summary line and the line about the process are one kill."""
    assert _select_kills(series(kmsg.collect(machine(_make_log(KILL, KILLED))))) == {"none": 1}


def test_an_old_kernel_writes_a_kill_in_one_line(machine: Machine, series: Series) -> None:
    """Without a summary line, as before Linux 5.0, the line about the process counts."""
    assert _select_kills(series(kmsg.collect(machine(_make_log(KILLED))))) == {"none": 1}


def test_a_group_killed_as_a_whole_counts_each(machine: Machine, series: Series) -> None:
    """memory.oom.group kills further processes without a summary line of their own."""
    summary = KILL.replace("NONE", "MEMCG").replace("global_oom", "oom_memcg=/x")
    first, second = (f"Memory cgroup out of memory: Killed process {pid} (python3)" for pid in (123, 124))
    host = machine(_make_log(summary, first, "Tasks in /x are going to be killed due to memory.oom.group set", second))

    assert _select_kills(series(kmsg.collect(host))) == {"memcg": 2}


def test_each_record_counts_once(machine: Machine, series: Series) -> None:
    """The log is read in every pass; only new records count."""
    host = machine(_make_log(KILL))
    list(kmsg.collect(host))

    assert _select_kills(series(kmsg.collect(host))) == {"none": 1}

    machine(_make_log(KILL, KILLED, KILL.replace("pid=123", "pid=124")))

    assert _select_kills(series(kmsg.collect(host))) == {"none": 2}


def test_records_of_programs_do_not_count(machine: Machine, series: Series) -> None:
    """A program that writes the kernel's words into the log has a facility other than 0, and does not count."""
    host = machine(_make_log(KILL, KILLED, "mce: [Hardware Error]: Machine check events logged", priority=1 << 3 | 6))

    assert set(series(kmsg.collect(host)).values()) == {0.0}


def test_the_last_kill_has_its_time(machine: Machine, series: Series) -> None:
    """Of one constraint's kills only the last is reported, at the boot's Unix time plus the record's."""
    host = machine(_make_log(KILL, KILL.replace("pid=123", "pid=9").replace("task=python3", "task=other")))
    values = series(kmsg.collect(host))
    name = "steadytok_kmsg_last_oom_kill_timestamp_seconds"

    assert {series: value for series, value in values.items() if series.startswith(name)} == {
        f'{name}{{cgroup="/x",constraint="none",victim="other"}}': 1760000000.001001
    }


def test_kills_of_two_constraints_keep_their_names(machine: Machine, series: Series) -> None:
    """A kill with one constraint leaves another's victim in place, so that its alert keeps its name."""
    confined = KILL.replace("NONE,nodemask=(null)", "MEMORY_POLICY,nodemask=1").replace("pid=123", "pid=9")
    values = series(kmsg.collect(machine(_make_log(KILL, confined.replace("task=python3", "task=other")))))

    assert {name.split("victim=")[1] for name in values if "last_oom_kill" in name} == {'"python3"}', '"other"}'}


@pytest.mark.parametrize(
    "text",
    [
        "CPU12: Core temperature above threshold, cpu clock throttled (total events = 1)",
        "CPU12: Package temperature is above threshold, cpu clock is throttled (total events = 1)",
        "mce: CPU3: Core temperature is above threshold, cpu clock is throttled (total events = 1)",
    ],
)
def test_heat_is_understood(machine: Machine, series: Series, text: str) -> None:
    """The wordings of several kernels count; the end of throttling does not."""
    host = machine(_make_log(text, "CPU12: Core temperature/speed normal"))

    assert series(kmsg.collect(host))["steadytok_kmsg_throttle_messages_total"] == 1


def test_a_log_that_cannot_be_read_counts_nothing(machine: Machine, series: Series) -> None:
    """Without a single record there is no 0 either, and one note has the reason."""
    host = machine({"dev/kmsg": "Operation not permitted"})

    assert series(kmsg.collect(host)) == {}
    assert len(host.take_notes()) == 1


def test_this_host_starts_at_zero(series: Series) -> None:
    """On a live host the records before the first pass do not count."""
    host = Host("/")
    values = series(kmsg.collect(host))
    if not values:
        pytest.skip(f"this user may not read the kernel log: {host.take_notes()}")

    assert {value for name, value in values.items() if name.split("{")[0].endswith("_total")} == {0.0}
