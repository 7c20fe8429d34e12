"""Finding engines, and the processes of each that hold its model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import pytest

from collectors import Host
from collectors._process.engine_processes import find_processes
from collectors._process.targets import ProcessTarget
from tests.machines.processes import format_stat

Machine = Callable[[Mapping[str, str]], Host]
OURS, POD, OTHER_POD = "net:[1]", "net:[2]", "net:[3]"
TCP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
TRIE = (
    "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- {}\n        /32 host LOCAL\n"
)


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


def find_engines(host: Host, *targets: ProcessTarget, discover: bool = True) -> list[tuple[str, str, int]]:
    return [(each.engine, each.rank, each.pid) for each in find_processes(host, targets, discover=discover)]


def test_workers_stand_for_their_engine(machine: Machine) -> None:
    """vLLM's workers hold the model, not the API server or the core; without workers the core holds it."""
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
    """Without titles the processes near the largest size hold the model, in the order of their start."""
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
    """Ollama's server holds no model: without runners it gives no process."""
    server = make_process(50, "/usr/bin/ollama", "serve")
    host = machine(server)

    assert find_engines(host) == []
    machine(make_process(60, "/usr/bin/ollama", "runner", "--port", "43211", parent=50))
    assert find_engines(host) == [("ollama", "0", 60)]


def test_engines_of_one_name_are_numbered(machine: Machine) -> None:
    """Two engines without distinguishing ports get numbered names, in the order of their start."""
    host = machine({**make_process(20, "llama-cli", started=9), **make_process(30, "llama-cli", started=5)})

    assert find_engines(host) == [("llama.cpp", "0", 30), ("llama.cpp#2", "0", 20)]


def test_a_url_names_the_engine_that_listens_there(machine: Machine) -> None:
    """The socket decides, not the command line; another host's URL, or one without an engine, matches no process."""
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
        ProcessTarget(name="r1", url="http://localhost:8080/v1"),
        ProcessTarget(name="front", url="http://127.0.0.1"),
        ProcessTarget(name="far", url="http://10.0.0.9:8080"),
        ProcessTarget(name="bad", url="http://[::1:80"),
    ]

    assert find_engines(host, *targets) == [("r1", "0", 30)]
    assert host.take_notes() == []


def test_containers_have_ports_of_their_own(machine: Machine) -> None:
    """For two containers with one port, Docker's proxy or the address decides which one a URL means."""
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

    by_proxy = [ProcessTarget(name=f"r{port}", url=f"http://127.0.0.1:{port}") for port in (9001, 9002)]
    assert find_engines(host, *by_proxy) == [("r9001", "0", 30), ("r9002", "0", 40)]
    assert find_engines(host, ProcessTarget(name="b", url="http://172.17.0.3:8000"), discover=False) == [("b", "0", 40)]
    assert find_engines(host, ProcessTarget(name="which", url="http://127.0.0.1:8000"), discover=False) == []


def test_what_is_named_comes_before_what_is_found(machine: Machine) -> None:
    """A command line or pid names any process, which is not found a second time under another name."""
    host = machine(
        {
            **make_process(30, "python", "serve.py", "--model", "r1"),
            **make_process(40, "llama-server"),
            **make_process(41, "llama-server"),
        }
    )

    targets = [ProcessTarget(name="mine", command=r"serve\.py.*r1"), ProcessTarget(name="big", pid=41)]
    assert find_engines(host, *targets) == [("big", "0", 41), ("llama.cpp", "0", 40), ("mine", "0", 30)]
    assert find_engines(host, *targets, discover=False) == [("big", "0", 41), ("mine", "0", 30)]


def test_what_is_named_and_not_there_is_noted(machine: Machine) -> None:
    """A pid or command line without a process leaves a note; a kernel thread is no process."""
    host = machine({"proc/2/stat": format_stat(2), "proc/2/cmdline": ""})

    assert (
        find_engines(
            host,
            ProcessTarget(name="a", pid=2),
            ProcessTarget(name="b", command="nothing"),
            ProcessTarget(name="c", pid=77),
        )
        == []
    )
    assert [note.path for note in host.take_notes()] == ["process 2", "command 'nothing'", "process 77"]


@pytest.mark.parametrize("target_fields", [{}, {"command": "a("}])
def test_a_target_that_finds_nobody_is_refused(target_fields: dict[str, str]) -> None:
    """A target without url, command and pid, or with a malformed pattern, is refused."""
    with pytest.raises(ValueError, match="expected"):
        ProcessTarget(name="x", **target_fields)


def test_a_worker_whose_engine_is_not_known_is_nobodys(machine: Machine) -> None:
    """Where the process between a worker and its engine is unreadable, no rank is reported."""
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
