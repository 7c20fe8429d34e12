"""
`python -m bench.soak --minutes N`: runs the agent on a moving host of 256 CPUs and watches for leaks.

Prints memory, threads, open files and scrapes at intervals. Memory may grow in the first hour, while History fills;
anything that grows after that is a leak.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import NamedTuple

import click
import psutil

from bench import processes, scrape
from bench.processes import Program
from bench.rows.sample_and_scrape import start_agent
from bench.tree import HostShape, build_tree


class ResourceSnapshot(NamedTuple):
    """The resources of the agent and its children at one moment."""

    minutes: float
    rss_mib: float
    threads: int
    files: int
    scrapes: int
    failures: int


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(min=0.5), default=60.0, help="How long (60).")
@click.option("--looks", type=click.IntRange(min=2), default=12, help="How many lines are printed (12).")
def main(minutes: float, looks: int) -> None:
    """Run the agent with every built-in rule on a moving tree and print its resources; exit 1 if a scrape failed."""
    with ExitStack() as stack:
        folder = stack.enter_context(processes.make_temporary_folder())
        root = folder / "root"
        build_tree(root, HostShape())
        stack.enter_context(processes.run_python("-m", "bench.mover", str(root)))
        program = start_agent(folder, root, "soak", builtin=True)
        stack.callback(program.close)
        program.wait_until_it_listens()
        (scraper,) = scrape.start_scrapers([program])
        stack.callback(scraper.close)
        click.echo("minutes   RSS MiB  threads  files  scrapes  failed")
        started = time.monotonic()
        for number in range(1, looks + 1):
            time.sleep(max(0.0, started + number * minutes * 60 / looks - time.monotonic()))
            snapshot = _take_snapshot(program, scraper, (time.monotonic() - started) / 60)
            click.echo(
                f"{snapshot.minutes:7.1f} {snapshot.rss_mib:9.1f} {snapshot.threads:8} {snapshot.files:6} "
                f"{snapshot.scrapes:8} {snapshot.failures:7}"
            )
    sys.exit(1 if snapshot.failures else 0)


def _take_snapshot(program: Program, scraper: scrape.Scraper, minutes: float) -> ResourceSnapshot:
    process_list: list[psutil.Process] = program.list_processes()
    return ResourceSnapshot(
        minutes,
        sum(process.memory_info().rss for process in process_list) / processes.MIB,
        sum(process.num_threads() for process in process_list),
        sum(process.num_fds() for process in process_list),
        scraper.scrapes,
        scraper.failures,
    )


if __name__ == "__main__":
    main(prog_name="python -m bench.soak")
