"""CPU and memory of the agent and its eye against node_exporter: the same tree, seconds and scrapes."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench import processes, scrape
from bench.processes import Program
from bench.report import BenchmarkResult, Figure, format_number
from bench.tree import HostShape, build_tree
from rules.history.history import estimate_bytes

ABOUT = "a tree of 256 CPUs, 8 nodes and 32 DIMMs, sampled and scraped each second, against node_exporter"
PEER = "prometheus-node-exporter"
BUDGET, AIM = 1 / 4, 1 / 6
PARTS = 3  # of the window: their differences show how exact the figure is
MEMORY_BUDGET = 128e6 / processes.MIB
WARM_UP = 15.0  # seconds: start, first passes, and three passes of each collector with an interval of 5 s
SAME_SIGNALS = (
    "cpu",
    "cpufreq",
    "edac",
    "hwmon",
    "meminfo",
    "meminfo_numa",
    "pressure",
    "rapl",
    "stat",
    "vmstat",
)

CpuReading = tuple[float, float]
"""A time on the monotonic clock, and the processor seconds used until then."""


class ProgramCost(NamedTuple):
    """The cost of a program during the window."""

    cpu: float
    """Seconds per second over the whole window."""
    parts: tuple[float, ...]
    """The same over its parts."""
    pss_mib: float
    rss_mib: float
    series: int
    scrapes: int


def measure(seconds: float) -> BenchmarkResult:
    """Measures all programs at once, over one window of `seconds`."""
    if shutil.which(PEER) is None:
        return BenchmarkResult("sample_and_scrape", ABOUT, skipped=f"{PEER} is not installed (apt install {PEER}).")
    with ExitStack() as stack:
        folder = stack.enter_context(processes.make_temporary_folder())
        root = folder / "root"
        build_tree(root, HostShape())
        stack.enter_context(processes.run_python("-m", "bench.mover", str(root)))
        programs = []
        for program in _start_programs(folder, root):
            stack.callback(program.close)
            programs.append(program)
            program.wait_until_it_listens()
        costs = _measure_window(programs, seconds)
    return _build_result(*costs, seconds=seconds)


def _start_programs(folder: Path, root: Path) -> Iterator[Program]:
    yield start_agent(folder, root, "plain", builtin=False)
    yield start_agent(folder, root, "ruled", builtin=True)
    same_flags = ["--collector.disable-defaults", *(f"--collector.{name}" for name in SAME_SIGNALS)]
    yield _start_peer(root, "same signals", same_flags)
    yield _start_peer(root, "defaults", ["--collector.meminfo_numa", "--log.level=error"])


def start_agent(folder: Path, root: Path, name: str, *, builtin: bool) -> Program:
    """Starts the agent without a canary on the machine below `root`; its configuration and state are below `folder`."""
    port = processes.find_free_port()
    config_path = folder / f"{name}.yml"
    config_path.write_text(
        f"web: {{listen: '127.0.0.1:{port}'}}\nstate: {{dir: {folder / name}}}\n"
        f"engine: {{enabled: false}}\nrules: {{builtin: {str(builtin).lower()}}}\n"
    )
    arguments = ["-m", "agent", "run", "--root", str(root), "--config", str(config_path), "--plain"]
    return Program(name, [sys.executable, *arguments], port)


def _start_peer(root: Path, name: str, flags: Sequence[str]) -> Program:
    port = processes.find_free_port()
    paths = [f"--path.procfs={root}/proc", f"--path.sysfs={root}/sys", f"--path.rootfs={root}"]
    return Program(name, [PEER, *paths, f"--web.listen-address=127.0.0.1:{port}", *flags], port)


def _measure_window(programs: Sequence[Program], seconds: float) -> list[ProgramCost]:
    scrapers = scrape.start_scrapers(programs)
    time.sleep(WARM_UP)
    scrapes_before = [scraper.scrapes for scraper in scrapers]
    readings = [_read_cpu(programs)]
    for _ in range(PARTS):
        time.sleep(seconds / PARTS)
        readings.append(_read_cpu(programs))
    memory = [program.read_memory_mib() for program in programs]
    for scraper in scrapers:
        scraper.close()
    return [
        ProgramCost(*_compute_rates(program_readings), *program_memory, scraper.series, scraper.scrapes - before)
        for program_readings, program_memory, scraper, before in zip(
            zip(*readings, strict=True), memory, scrapers, scrapes_before, strict=True
        )
    ]


def _read_cpu(programs: Sequence[Program]) -> list[CpuReading]:
    return [(time.monotonic(), program.read_cpu_seconds()) for program in programs]


def _compute_rates(readings: Sequence[CpuReading]) -> tuple[float, tuple[float, ...]]:
    """Processor seconds per second over the whole window, and over each of its parts."""
    parts = tuple((cpu - last) / (at - before) for (before, last), (at, cpu) in itertools.pairwise(readings))
    (started, first), (ended, final) = readings[0], readings[-1]
    return (final - first) / (ended - started), parts


def _build_result(
    plain: ProgramCost, ruled: ProgramCost, same_signals: ProgramCost, defaults: ProgramCost, *, seconds: float
) -> BenchmarkResult:
    costs_by_name = {
        "agent, built-in rules off": plain,
        "agent, built-in rules on": ruled,
        "node_exporter, same signals": same_signals,
        "node_exporter, defaults and meminfo_numa": defaults,
    }
    figures = [
        Figure("CPU, rules off / same signals", plain.cpu / same_signals.cpu, "ratio", BUDGET, AIM),
        Figure("CPU, rules on / same signals", ruled.cpu / same_signals.cpu, "ratio"),
        Figure("CPU, rules off / defaults", plain.cpu / defaults.cpu, "ratio"),
        Figure(
            "memory, rules on: PSS now and an hour of History as estimated",
            _estimate_hour_memory(ruled),
            "MiB",
            MEMORY_BUDGET,
        ),
    ]
    for name, cost in costs_by_name.items():
        figures += [
            Figure(f"{name}: CPU", cost.cpu * 1000, "ms/s"),
            Figure(f"{name}: PSS", cost.pss_mib, "MiB"),
            Figure(f"{name}: RSS", cost.rss_mib, "MiB"),
            Figure(f"{name}: samples of a scrape", cost.series, ""),
        ]
    ratios = ", ".join(
        format_number(ours / theirs) for ours, theirs in zip(plain.parts, same_signals.parts, strict=True)
    )
    note = f"The first ratio in each third of the window: {ratios}."
    return BenchmarkResult("sample_and_scrape", ABOUT, tuple(figures), (note, *_build_notes(costs_by_name, seconds)))


def _estimate_hour_memory(cost: ProgramCost) -> float:
    return cost.pss_mib + estimate_bytes(cost.series, 1000, 3_600_000) / processes.MIB


def _build_notes(costs_by_name: dict[str, ProgramCost], seconds: float) -> Iterator[str]:
    yield f"One window of {seconds:g} s after {WARM_UP:g} s of warm-up; the agent's figures include its eye."
    yield f"The same signals are node_exporter's collectors {', '.join(SAME_SIGNALS)}."
    yield (
        "The agent reads cpufreq, thermal_throttle and powercap every 5 s, hwmon every 2 s, edac every 60 s, and only "
        "the package sensor of coretemp. node_exporter 1.5 reads everything at each scrape; no option changes that."
    )
    yield "Its defaults include collectors whose files are not in the tree; they end early."
    for name, cost in costs_by_name.items():
        if cost.scrapes < seconds - 2:
            yield f"{name} answered only {cost.scrapes} scrapes in {seconds:g} s."
