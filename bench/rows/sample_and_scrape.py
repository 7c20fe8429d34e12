"""CPU and memory of the agent and its eye against node_exporter: the same tree, the same seconds, the same scrapes."""

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
from bench.report import Figure, Row, shown
from bench.tree import Shape, build
from rules.history.history import bytes_needed

ABOUT = "a tree of 256 CPUs, 8 nodes and 32 DIMMs, sampled and scraped each second, against node_exporter"
PEER = "prometheus-node-exporter"
BUDGET, AIM = 1 / 4, 1 / 6
PARTS = 3  # of the window: how far they differ says how much the figure is worth
MEMORY = 128e6 / processes.MIB
WARM_UP = 15.0  # seconds: start, the first passes, and three of each collector that is asked every 5 s
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

Look = tuple[float, float]
"""A time on the monotonic clock, and the processor seconds used until then."""


class Cost(NamedTuple):
    """What a program took during the window."""

    cpu: float
    """Seconds per second over the whole window."""
    parts: tuple[float, ...]
    """The same over its parts."""
    pss_mib: float
    rss_mib: float
    series: int
    scrapes: int


def measure(seconds: float) -> Row:
    """All programs at once over one window of so many seconds."""
    if shutil.which(PEER) is None:
        return Row("sample_and_scrape", ABOUT, skipped=f"{PEER} is not installed (apt install {PEER}).")
    with ExitStack() as stack:
        place = stack.enter_context(processes.folder())
        root = place / "root"
        build(root, Shape())
        stack.enter_context(processes.python("-m", "bench.mover", str(root)))
        programs = []
        for program in _programs(place, root):
            stack.callback(program.end)
            programs.append(program)
            program.wait_until_it_listens()
        costs = _window(programs, seconds)
    return _row(*costs, seconds=seconds)


def _programs(place: Path, root: Path) -> Iterator[Program]:
    yield agent_on(place, root, "plain", builtin=False)
    yield agent_on(place, root, "ruled", builtin=True)
    same = ["--collector.disable-defaults", *(f"--collector.{name}" for name in SAME_SIGNALS)]
    yield _peer(root, "same signals", same)
    yield _peer(root, "defaults", ["--collector.meminfo_numa", "--log.level=error"])


def agent_on(place: Path, root: Path, name: str, *, builtin: bool) -> Program:
    """The agent, without a canary, on the machine below `root`; its configuration and state are below `place`."""
    port = processes.free_port()
    config = place / f"{name}.yml"
    config.write_text(
        f"web: {{listen: '127.0.0.1:{port}'}}\nstate: {{dir: {place / name}}}\n"
        f"engine: {{enabled: false}}\nrules: {{builtin: {str(builtin).lower()}}}\n"
    )
    arguments = ["-m", "agent", "run", "--root", str(root), "--config", str(config), "--plain"]
    return Program(name, [sys.executable, *arguments], port)


def _peer(root: Path, name: str, flags: Sequence[str]) -> Program:
    port = processes.free_port()
    paths = [f"--path.procfs={root}/proc", f"--path.sysfs={root}/sys", f"--path.rootfs={root}"]
    return Program(name, [PEER, *paths, f"--web.listen-address=127.0.0.1:{port}", *flags], port)


def _window(programs: Sequence[Program], seconds: float) -> list[Cost]:
    scrapers = scrape.over(programs)
    time.sleep(WARM_UP)
    scraped = [scraper.scrapes for scraper in scrapers]
    looks = [_look(programs)]
    for _ in range(PARTS):
        time.sleep(seconds / PARTS)
        looks.append(_look(programs))
    memory = [program.memory_mib() for program in programs]
    for scraper in scrapers:
        scraper.end()
    return [
        Cost(*_rates(of_program), *held, scraper.series, scraper.scrapes - before)
        for of_program, held, scraper, before in zip(zip(*looks, strict=True), memory, scrapers, scraped, strict=True)
    ]


def _look(programs: Sequence[Program]) -> list[Look]:
    return [(time.monotonic(), program.cpu_seconds()) for program in programs]


def _rates(looks: Sequence[Look]) -> tuple[float, tuple[float, ...]]:
    """Processor seconds per second over the whole window, and over each of its parts."""
    parts = tuple((cpu - last) / (at - before) for (before, last), (at, cpu) in itertools.pairwise(looks))
    (began, first), (ended, final) = looks[0], looks[-1]
    return (final - first) / (ended - began), parts


def _row(plain: Cost, ruled: Cost, same: Cost, defaults: Cost, *, seconds: float) -> Row:
    named = {
        "agent, built-in rules off": plain,
        "agent, built-in rules on": ruled,
        "node_exporter, same signals": same,
        "node_exporter, defaults and meminfo_numa": defaults,
    }
    figures = [
        Figure("CPU, rules off / same signals", plain.cpu / same.cpu, "ratio", BUDGET, AIM),
        Figure("CPU, rules on / same signals", ruled.cpu / same.cpu, "ratio"),
        Figure("CPU, rules off / defaults", plain.cpu / defaults.cpu, "ratio"),
        Figure("memory, rules on: PSS now and an hour of History as estimated", _after_an_hour(ruled), "MiB", MEMORY),
    ]
    for name, cost in named.items():
        figures += [
            Figure(f"{name}: CPU", cost.cpu * 1000, "ms/s"),
            Figure(f"{name}: PSS", cost.pss_mib, "MiB"),
            Figure(f"{name}: RSS", cost.rss_mib, "MiB"),
            Figure(f"{name}: samples of a scrape", cost.series, ""),
        ]
    ratios = ", ".join(shown(ours / theirs) for ours, theirs in zip(plain.parts, same.parts, strict=True))
    note = f"The first ratio in each third of the window: {ratios}."
    return Row("sample_and_scrape", ABOUT, tuple(figures), (note, *_notes(named, seconds)))


def _after_an_hour(cost: Cost) -> float:
    return cost.pss_mib + bytes_needed(cost.series, 1000, 3_600_000) / processes.MIB


def _notes(named: dict[str, Cost], seconds: float) -> Iterator[str]:
    yield f"One window of {seconds:g} s after {WARM_UP:g} s of warm-up; the agent's figures include its eye."
    yield f"The same signals are node_exporter's collectors {', '.join(SAME_SIGNALS)}."
    yield (
        "The agent asks cpufreq, thermal_throttle and powercap every 5 s, hwmon every 2 s and edac every 60 s, and of "
        "coretemp reads the package alone; node_exporter 1.5 reads all of it at each scrape and has no switch for that."
    )
    yield "Its defaults include collectors whose files the tree does not have; those end early."
    for name, cost in named.items():
        if cost.scrapes < seconds - 2:
            yield f"{name} answered only {cost.scrapes} scrapes in {seconds:g} s."
