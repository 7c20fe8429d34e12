"""
`python -m bench.soak --minutes N`: the agent on a moving host of 256 CPUs, watched for what grows.

Prints memory, threads, open files and late ticks at intervals. The first hour may grow while History fills; what goes
on growing after that is a leak.
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
from bench.rows.sample_and_scrape import agent_on
from bench.tree import Shape, build


class Look(NamedTuple):
    """The agent and its children at one moment."""

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
    """Run the agent with every built-in rule on a moving tree and print what it holds; exit 1 if a scrape failed."""
    with ExitStack() as stack:
        place = stack.enter_context(processes.folder())
        root = place / "root"
        build(root, Shape())
        stack.enter_context(processes.python("-m", "bench.mover", str(root)))
        program = agent_on(place, root, "soak", builtin=True)
        stack.callback(program.end)
        program.wait_until_it_listens()
        (scraper,) = scrape.over([program])
        stack.callback(scraper.end)
        click.echo("minutes   RSS MiB  threads  files  scrapes  failed")
        began = time.monotonic()
        for number in range(1, looks + 1):
            time.sleep(max(0.0, began + number * minutes * 60 / looks - time.monotonic()))
            look = _look(program, scraper, (time.monotonic() - began) / 60)
            click.echo(
                f"{look.minutes:7.1f} {look.rss_mib:9.1f} {look.threads:8} {look.files:6} "
                f"{look.scrapes:8} {look.failures:7}"
            )
    sys.exit(1 if look.failures else 0)


def _look(program: Program, scraper: scrape.Scraper, minutes: float) -> Look:
    family: list[psutil.Process] = program.family()
    return Look(
        minutes,
        sum(member.memory_info().rss for member in family) / processes.MIB,
        sum(member.num_threads() for member in family),
        sum(member.num_fds() for member in family),
        scraper.scrapes,
        scraper.failures,
    )


if __name__ == "__main__":
    main(prog_name="python -m bench.soak")
