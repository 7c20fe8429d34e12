"""Where threads run and may run, and counts that outlast them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from collectors import Host
from collectors._process.threads import ThreadTracker
from tests.machines.processes import format_stat

Machine = Callable[[Mapping[str, str]], Host]


def make_thread(tid: int, cpu: int, ticks: int, allowed: str = "0-3", moves: int | None = 5) -> dict[str, str]:
    folder = f"proc/9/task/{tid}"
    files = {
        f"{folder}/stat": format_stat(tid, ticks=ticks, cpu=cpu, name="a) S (b"),
        f"{folder}/status": f"Cpus_allowed_list:\t{allowed}\nMems_allowed_list:\t0-1\n",
    }
    if moves is not None:
        files[f"{folder}/sched"] = f"se.nr_migrations    :      {moves}\nnuma_pages_migrated : 2\n"
    return files


NODE_BY_CPU = {0: "0", 1: "0", 2: "1", 3: "1"}


def test_threads_are_where_they_worked(machine: Machine) -> None:
    """Processor time since the last pass counts by each thread's node; idle processes keep the last nodes."""
    host = machine({**make_thread(9, 0, 100), **make_thread(10, 2, 300)})
    tracker = ThreadTracker()

    assert tracker.update(host, 9, NODE_BY_CPU).ticks == {"0": 100, "1": 300}
    machine({**make_thread(9, 0, 150), **make_thread(10, 1, 340)})
    second = tracker.update(host, 9, NODE_BY_CPU)
    assert (second.ticks, second.running) == ({"0": 90}, {"0": 2})
    assert tracker.update(host, 9, NODE_BY_CPU).ticks == {"0": 90}


def test_bound_threads_are_those_of_one_node(machine: Machine) -> None:
    """Affinity counts by node; processors of empty sockets, which affinity also lists, belong to no node."""
    host = machine({**make_thread(9, 0, 1, "0-127"), **make_thread(10, 2, 1, "2,64-127"), **make_thread(11, 3, 1, "3")})

    threads = ThreadTracker().update(host, 9, NODE_BY_CPU)
    assert (threads.allowed, threads.bound) == ({"0": 1, "1": 3}, {"1": 2})


def test_counts_do_not_fall_when_a_thread_ends(machine: Machine) -> None:
    """The process's sum keeps an ended thread's counts, and a missing count is made good later."""
    host = machine({**make_thread(9, 0, 1, moves=10), **make_thread(10, 0, 1, moves=7)})
    tracker = ThreadTracker()

    assert tracker.update(host, 9, NODE_BY_CPU).thread_migrations == 17
    for file in ("stat", "status", "sched"):
        os.unlink(host.path(f"proc/9/task/10/{file}"))
    os.rmdir(host.path("proc/9/task/10"))
    machine(make_thread(9, 0, 1, moves=12))
    assert tracker.update(host, 9, NODE_BY_CPU).thread_migrations == 19
    os.unlink(host.path("proc/9/task/9/sched"))
    assert tracker.update(host, 9, NODE_BY_CPU).thread_migrations is None
    machine(make_thread(9, 0, 1, moves=13))
    assert tracker.update(host, 9, NODE_BY_CPU).thread_migrations == 20


def test_a_thread_that_cannot_be_read_is_not_left_out_of_a_count(machine: Machine) -> None:
    """With one unreadable thread there are no counts, and a note names the thread."""
    host = machine({**make_thread(9, 0, 1), **make_thread(10, 2, 1)})
    machine({"proc/9/task/10/stat": "nonsense"})

    assert ThreadTracker().update(host, 9, NODE_BY_CPU) == (None,) * 6
    assert "proc/9/task/10" in [note.path for note in host.take_notes()]
