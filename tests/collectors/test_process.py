"""Which processes are engines and which of them hold a model; maps, threads, and this machine's own kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collectors import Host, Reading, process
from collectors._process import command_lines as commands
from collectors._process import move_pages
from collectors._process.engine_processes import find_processes
from collectors._process.maps import MemoryMapping as Mapped
from collectors._process.maps import read_mappings
from collectors._process.move_pages import sample_pages
from collectors._process.stat import read_stat
from collectors._process.targets import Target
from collectors._process.threads import ThreadTracker

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
OURS, POD, OTHER_POD = "net:[1]", "net:[2]", "net:[3]"
TCP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
TRIE = (
    "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- {}\n        /32 host LOCAL\n"
)


def format_stat(pid: int, *, parent: int = 1, started: int = 0, ticks: int = 0, cpu: int = 0, name: str = "x") -> str:
    """/proc/PID/stat of Linux 6.x: fields 4 to 52 after the state."""
    numbers = [0] * 49
    numbers[0], numbers[10], numbers[18], numbers[35] = parent, ticks, started or pid, cpu
    return f"{pid} ({name}) S {' '.join(map(str, numbers))}\n"


def make_process(pid: int, *words: str, parent: int = 1, resident: int | None = None, **more: int) -> dict[str, str]:
    """The files of a process."""
    files = {
        f"proc/{pid}/cmdline": "\0".join(words) + "\0",
        f"proc/{pid}/stat": format_stat(pid, parent=parent, **more),
    }
    if resident is not None:
        files[f"proc/{pid}/status"] = f"VmRSS:\t{resident} kB\nCpus_allowed_list:\t0-3\nMems_allowed_list:\t0\n"
    return files


def listen_on(host: Host, pid: int, port: int, space: str) -> None:
    """Lets a process listen on a port in a network namespace."""
    tcp = f"{TCP}\n   0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 {pid}7 1 0 1\n"
    for path, text in ((f"proc/{pid}/net/tcp", tcp), (f"proc/{pid}/fd/.", "")):
        os.makedirs(os.path.dirname(host.path(path)), exist_ok=True)
        if text:
            with open(host.path(path), "w") as file:
                file.write(text)
    os.symlink(f"socket:[{pid}7]", host.path(f"proc/{pid}/fd/3"))
    enter_namespace(host, pid, space)


def enter_namespace(host: Host, pid: int, space: str) -> None:
    os.makedirs(host.path(f"proc/{pid}/ns"), exist_ok=True)
    os.symlink(space, host.path(f"proc/{pid}/ns/net"))


def find_engines(host: Host, *targets: Target, discover: bool = True) -> list[tuple[str, str, int]]:
    return [(each.engine, each.rank, each.pid) for each in find_processes(host, targets, discover=discover)]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("/usr/bin/python3 /usr/local/bin/vllm serve Qwen/Qwen3-32B", "vllm"),
        ("python -m vllm.entrypoints.openai.api_server --model x", "vllm"),
        ("/opt/venv/bin/python3.12 -X dev -u -m sglang.launch_server --tp 8", "sglang"),
        ("/build/bin/llama-server -m m.gguf", "llama.cpp"),
        ("python -m llama_cpp.server --model m.gguf", "llama.cpp"),
        ("python ktransformers/local_chat.py --model_path x", "ktransformers"),
        ("python -m ktransformers.server.main --port 10002", "ktransformers"),
        ("/usr/bin/ollama serve", "ollama"),
        ("/usr/bin/ollama runner --model /blobs/sha256 --port 40001", "ollama"),
        ("/tmp/ollama1/runners/cpu_avx2/ollama_llama_server --port 4", "ollama"),
        ("/opt/venv/bin/python -P -m engine --size 1GiB", "reference"),
        ("VLLM::Worker_TP1", "vllm"),
        ("sglang::scheduler_TP0", "sglang"),
        ("vim vllm.py", None),
        ("bash -c vllm serve x", None),
        ("python -c import vllm", None),
        ("grep -r llama-server .", None),
        ("python -m pytest engine", None),
        ("python", None),
        ("python -W", None),
    ],
)
def test_engines_are_told_by_the_words_of_their_command_line(line: str, kind: str | None) -> None:
    """What a command line starts counts, whatever Python's options before it; what only mentions an engine is none."""
    assert commands.detect_kind(line.split()) == kind


@pytest.mark.parametrize(
    ("title", "rank"),
    [
        ("VLLM::Worker_TP3", "3"),
        ("VLLM::Worker_TP1_EP1", "1"),
        ("VLLM::Worker_PP1_TP0", "PP1_TP0"),
        ("sglang::scheduler", "0"),
        ("sglang::scheduler_DP1_TP0_EP0", "DP1_TP0"),
        ("sglang::detokenizer", None),
        ("VLLM::EngineCore", None),
        ("vllm", None),
    ],
)
def test_ranks_are_in_the_titles_of_workers(title: str, rank: str | None) -> None:
    """A tensor-parallel rank is its number; where pipelines or replicas are told too the whole position counts."""
    assert commands.parse_rank([title]) == rank


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_command_line_can_be_looked_at(words: list[str]) -> None:
    """No command line, whatever is in it, makes the search stumble."""
    commands.detect_kind(words)
    commands.parse_rank(words)
    commands.is_runner(words)
    commands.parse_proxy(words)
    port = commands.parse_port(words)
    assert port is None or 0 < port < 65536


def test_workers_stand_for_their_engine(machine: Machine) -> None:
    """Of vLLM's tree the workers hold the model, not the API server or the core; where there are none, the core."""
    several = {
        **make_process(100, "python3", "/usr/bin/vllm", "serve", "--port", "8001"),
        **make_process(110, "VLLM::EngineCore", parent=100),
        **make_process(111, "VLLM::Worker_TP0", parent=110),
        **make_process(112, "VLLM::Worker_TP1", parent=110),
    }
    single = {**make_process(200, "vllm", "serve"), **make_process(210, "VLLM::EngineCore", parent=200)}

    assert find_engines(machine({**several, **single})) == [
        ("vllm", "0", 210),
        ("vllm:8001", "0", 111),
        ("vllm:8001", "1", 112),
    ]


def test_workers_without_titles_are_the_large_ones(machine: Machine) -> None:
    """Without titles those that are not much smaller than the largest hold the model, in the order of start."""
    host = machine(
        {
            **make_process(100, "python", "-m", "sglang.launch_server", resident=900_000),
            **make_process(103, "python", "-c", "spawn", parent=100, resident=20_000_000, started=7),
            **make_process(102, "python", "-c", "spawn", parent=100, resident=21_000_000, started=9),
            **make_process(104, "python", "-c", "tokens", parent=103, resident=300_000),
        }
    )

    assert find_engines(host) == [("sglang", "0", 103), ("sglang", "1", 102)]


def test_ollama_is_its_runners(machine: Machine) -> None:
    """Ollama's server holds nothing: with no model loaded it is not there, else its runners are."""
    server = make_process(50, "/usr/bin/ollama", "serve")
    host = machine(server)

    assert find_engines(host) == []
    machine(make_process(60, "/usr/bin/ollama", "runner", "--port", "43211", parent=50))
    assert find_engines(host) == [("ollama", "0", 60)]


def test_engines_of_one_name_are_numbered(machine: Machine) -> None:
    """Two engines that cannot be told apart by a port have names of their own, in the order of their start."""
    host = machine({**make_process(20, "llama-cli", started=9), **make_process(30, "llama-cli", started=5)})

    assert find_engines(host) == [("llama.cpp", "0", 30), ("llama.cpp#2", "0", 20)]


def test_a_url_names_the_engine_that_listens_there(machine: Machine) -> None:
    """The socket counts, not what the command line says; another host's URL and one without an engine are nobody's."""
    host = machine(
        {
            **make_process(1, "/sbin/init"),
            **make_process(30, "llama-server", "--port", "1"),
            **make_process(40, "nginx"),
        }
    )
    enter_namespace(host, 1, OURS)
    listen_on(host, 30, 8080, OURS)
    listen_on(host, 40, 80, OURS)
    targets = [
        Target(name="r1", url="http://localhost:8080/v1"),
        Target(name="front", url="http://127.0.0.1"),
        Target(name="far", url="http://10.0.0.9:8080"),
        Target(name="bad", url="http://[::1:80"),
    ]

    assert find_engines(host, *targets) == [("r1", "0", 30)]
    assert host.take_notes() == []


def test_containers_have_ports_of_their_own(machine: Machine) -> None:
    """Of two containers with one port Docker's proxy says which a port of the host means, or the address does."""
    proxy = "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port {} -container-ip {} -container-port 8000"
    host = machine(
        {
            **make_process(1, "/sbin/init"),
            **make_process(30, "vllm", "serve"),
            **make_process(40, "vllm", "serve"),
            **make_process(51, *proxy.format(9001, "172.17.0.2").split()),
            **make_process(52, *proxy.format(9002, "172.17.0.3").split()),
            "proc/30/net/fib_trie": TRIE.format("172.17.0.2"),
            "proc/40/net/fib_trie": TRIE.format("172.17.0.3"),
        }
    )
    enter_namespace(host, 1, OURS)
    listen_on(host, 30, 8000, POD)
    listen_on(host, 40, 8000, OTHER_POD)

    by_proxy = [Target(name=f"r{port}", url=f"http://127.0.0.1:{port}") for port in (9001, 9002)]
    assert find_engines(host, *by_proxy) == [("r9001", "0", 30), ("r9002", "0", 40)]
    assert find_engines(host, Target(name="b", url="http://172.17.0.3:8000"), discover=False) == [("b", "0", 40)]
    assert find_engines(host, Target(name="which", url="http://127.0.0.1:8000"), discover=False) == []


def test_what_is_named_comes_before_what_is_found(machine: Machine) -> None:
    """A command line or a pid names any process; it is not found a second time under another name."""
    host = machine(
        {
            **make_process(30, "python", "serve.py", "--model", "r1"),
            **make_process(40, "llama-server"),
            **make_process(41, "llama-server"),
        }
    )

    targets = [Target(name="mine", command=r"serve\.py.*r1"), Target(name="big", pid=41)]
    assert find_engines(host, *targets) == [("big", "0", 41), ("llama.cpp", "0", 40), ("mine", "0", 30)]
    assert find_engines(host, *targets, discover=False) == [("big", "0", 41), ("mine", "0", 30)]


def test_what_is_named_and_not_there_is_noted(machine: Machine) -> None:
    """A pid or command line without a process leaves a note that says so; a thread of the kernel is no process."""
    host = machine({"proc/2/stat": format_stat(2), "proc/2/cmdline": ""})

    assert (
        find_engines(host, Target(name="a", pid=2), Target(name="b", command="nothing"), Target(name="c", pid=77)) == []
    )
    assert [note.path for note in host.take_notes()] == ["process 2", "command 'nothing'", "process 77"]


@pytest.mark.parametrize("target_fields", [{}, {"command": "a("}])
def test_a_target_that_finds_nobody_is_refused(target_fields: dict[str, str]) -> None:
    """A target without url, command and pid, and a pattern that is none, are refused before anything starts."""
    with pytest.raises(ValueError, match="expected"):
        Target(name="x", **target_fields)


def test_a_worker_whose_engine_is_not_known_is_nobodys(machine: Machine) -> None:
    """Where the process between a worker and its engine cannot be read no rank is told rather than a wrong one."""
    host = machine(
        {
            **make_process(100, "vllm", "serve"),
            **make_process(110, "VLLM::EngineCore", parent=100),
            **make_process(111, "VLLM::Worker_TP0", parent=110),
            "proc/110/stat": "nonsense",
        }
    )

    assert find_engines(host) == []
    assert "proc/110/stat" in [note.path for note in host.take_notes()]


MAPS = """\
55d0c0000000-55d0c0010000 r-xp 00000000 08:01 131 /usr/bin/python3.11 (deleted)
55d0c1000000-55d0c1100000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000200000 rw-p 00000000 00:00 0 [anon:glibc: malloc]
7f0010000000-7f0010200000 rw-p 00000000 00:0f 99 /anon_hugepage (deleted)
7f0020000000-7f0020200000 rw-s 00000000 00:2a 7 /srv/pages/kv cache
7f0030000000-7f0030100000 rw-s 00000000 00:01 5 /memfd:shared (deleted)
7f0031000000-7f0031100000 rw-s 00000000 00:1b 5 /run/weights
7f0032000000-7f0032100000 rw-s 00000000 00:01 9 /dev/zero (deleted)
7f0040000000-7f0080000000 ---p 00000000 00:00 0
7f0090000000-7f00a0000000 rw-s 00000000 00:06 4 /dev/nvidia-uvm
7f00b0000000-7f00b0001000 rw-s 00000000 00:0e 4 anon_inode:[io_uring]
7f00c0000000-7f00c0100000 rw-p 00000000 00:00 0
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]
7ffe00030000-7ffe00032000 r-xp 00000000 00:00 0 [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
"""
MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
33 22 0:27 / /run rw - tmpfs tmpfs rw
44 22 0:42 / /srv/pages rw - hugetlbfs hugetlbfs rw
"""


def test_mappings_have_the_kernels_kinds(machine: Machine) -> None:
    """What is memory of the host is told by kind, as status counts it; reservations and devices are left out."""
    host = machine({"proc/9/maps": MAPS, "proc/9/mountinfo": MOUNTS})

    kinds = [mapping.kind for mapping in read_mappings(host, 9) or []]
    assert kinds == ["file", "anon", "anon", "hugetlb", "hugetlb", "shmem", "shmem", "shmem", "anon", "anon"]
    assert (read_mappings(host, 9) or [])[1] == Mapped(0x55D0C1000000, 0x55D0C1100000, "anon")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.integers(0, len(MAPS.splitlines()) - 1),
    st.text(st.characters(exclude_characters="\n\r", codec="ascii"), max_size=30),
)
def test_a_line_that_is_none_is_not_passed_over(machine: Machine, index: int, damage: str) -> None:
    """Maps with a line that cannot be read are no maps: the pages of that mapping would be missing in the shares."""
    lines = MAPS.splitlines()
    lines[index] = f"{damage}!{lines[index]}"
    host = machine({"proc/9/maps": "\n".join(lines)})

    assert read_mappings(host, 9) is None
    assert [note.path for note in host.take_notes()] == ["proc/9/maps"]


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
    """Processor time since the last look counts by where each thread is; while all rest, where they last worked."""
    host = machine({**make_thread(9, 0, 100), **make_thread(10, 2, 300)})
    tracker = ThreadTracker()

    assert tracker.update(host, 9, NODE_BY_CPU).ticks == {"0": 100, "1": 300}
    machine({**make_thread(9, 0, 150), **make_thread(10, 1, 340)})
    second = tracker.update(host, 9, NODE_BY_CPU)
    assert (second.ticks, second.running) == ({"0": 90}, {"0": 2})
    assert tracker.update(host, 9, NODE_BY_CPU).ticks == {"0": 90}


def test_bound_threads_are_those_of_one_node(machine: Machine) -> None:
    """Affinity is told by node; processors of empty sockets, which affinity lists too, are of no node."""
    host = machine({**make_thread(9, 0, 1, "0-127"), **make_thread(10, 2, 1, "2,64-127"), **make_thread(11, 3, 1, "3")})

    threads = ThreadTracker().update(host, 9, NODE_BY_CPU)
    assert (threads.allowed, threads.bound) == ({"0": 1, "1": 3}, {"1": 2})


def test_counts_do_not_fall_when_a_thread_ends(machine: Machine) -> None:
    """A thread takes its counts along; the sum of the process keeps them, and a missing one is made good later."""
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
    """Counts of all threads but one would be wrong: there are none, and a note says which thread it was."""
    host = machine({**make_thread(9, 0, 1), **make_thread(10, 2, 1)})
    machine({"proc/9/task/10/stat": "nonsense"})

    assert ThreadTracker().update(host, 9, NODE_BY_CPU) == (None,) * 6
    assert "proc/9/task/10" in [note.path for note in host.take_notes()]


@contextmanager
def start_child(mebibytes: int) -> Iterator[int]:
    """A process with so much memory that it has touched."""
    code = "import mmap, sys; m = mmap.mmap(-1, int(sys.argv[1]) << 20, flags=34 | 0x8000); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, str(mebibytes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child_process:
        assert child_process.stdout is not None
        child_process.stdout.readline()
        try:
            yield child_process.pid
        finally:
            child_process.kill()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_this_kernel_is_asked(series: Series) -> None:
    """On this machine a process's pages are on its nodes: the shares add up to 1, each with an error."""
    host = Host("/")
    with start_child(64) as pid:
        config = process.Config(engines=(Target(name="held", pid=pid),), discover=False)
        values = series(process.collect(host, config))
    notes = host.take_notes()
    if not os.path.exists("/sys/devices/system/node/node0") or notes:
        pytest.skip(f"this kernel does not tell where pages are: {notes}")

    shares = [value for name, value in values.items() if "node_share_ratio" in name]
    assert sum(shares) == pytest.approx(1.0)
    assert values['steadytok_process_sampled_pages{engine="held",kind="anon",rank="0"}'] > 3000
    assert values['steadytok_process_memory_bytes{engine="held",kind="anon",rank="0"}'] > 64 << 20


def test_a_process_that_has_ended_is_not_asked() -> None:
    """A pid whose process has ended, and one that was another's, give no placement and one note."""
    host = Host("/")
    with start_child(1) as pid:
        process_stat = read_stat(host, pid)
        assert process_stat is not None
        assert sample_pages(host, pid, process_stat.start_time + 1, 100) is None
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert sample_pages(host, pid, process_stat.start_time, 100) is None
    assert len(host.take_notes()) == 2


def test_a_program_that_it_becomes_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where execve(2) puts another program in its place between mappings and question, nothing is told of either."""
    code = "import os, sys; print(flush=True); sys.stdin.readline(); os.execvp('sleep', ['sleep', '60'])"
    host = Host("/")
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as one_process:
        assert one_process.stdout is not None
        one_process.stdout.readline()
        first = read_stat(host, one_process.pid)
        assert first is not None
        replaced_pids: list[int] = []

        def become(host: Host, pid: int) -> list[Mapped] | None:
            old = read_mappings(host, pid)
            assert one_process.stdin is not None
            one_process.stdin.write(b"now\n")
            one_process.stdin.flush()
            deadline = time.monotonic() + 30
            while (now := read_stat(host, pid)) is not None and now.start_stack == first.start_stack:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            replaced_pids.append(pid)
            return old

        monkeypatch.setattr(move_pages, "read_mappings", become)
        placement = sample_pages(host, one_process.pid, first.start_time, 4096)
        one_process.kill()

    assert replaced_pids == [one_process.pid]
    assert placement is None
    assert len(host.take_notes()) == 1


def test_a_fixture_never_asks_this_machine(machine: Machine) -> None:
    """Below another root than / no page is asked, though the pid may be one of this machine's."""
    host = machine({})

    assert sample_pages(host, os.getpid(), 0, 100) is None
    assert host.take_notes() == []
