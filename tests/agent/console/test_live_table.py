"""What a person at a terminal sees."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agent.console.host_view import EngineView, HostView, HostViewBuilder, NodeView
from agent.console.live_table import build_table, draw_bar, draw_sparkline, format_plain, open_screen
from agent.engines.baseline import Baseline
from collectors import Sample, gauge
from rules.alerts import Alert, AlertState
from rules.history.history import History

GIB = float(1 << 30)
HOT = Alert(
    name="DimmHot",
    labels=(("alertname", "DimmHot"), ("severity", "warning")),
    annotations=(("summary", "DIMM 3-0050 has only 2.0 °C left."),),
    state=AlertState.FIRING,
    value=2.0,
    active_at_ms=0,
    expr="",
    interval_ms=1000,
    fired_at_ms=0,
)
VIEW = HostView(
    engines=(EngineView("r1", True, 61.24, 80.0, 1.0), EngineView("r2", False, None, None, 0.25)),
    hottest=("spd5118 3-0050", 83.4),
    frequency=2.1e9,
    frequency_max=3.8e9,
    remote=0.125,
    nodes=(NodeView("0", 3 * GIB, 4 * GIB),),
    canary_cpu=0.012,
    canary_memory=178 * float(1 << 20),
    failing=("hwmon",),
    alerts=(HOT,),
    series=1234,
    canary_starting=False,
)


def test_one_line_says_it_all() -> None:
    """The plain line has speeds, baselines, heat, frequency, remote share, memory by node and alerts, with units."""
    line = format_plain(VIEW)

    assert "engine r1 61.2 tokens/s, baseline 80.0" in line
    assert "engine r2 DOWN" in line
    assert "hottest 83 °C spd5118 3-0050" in line
    assert "frequency 2.10 of 3.80 GHz mean" in line
    assert "remote 12.5% of allocations" in line
    assert "3.0 GiB available of 4.0 GiB" in line
    assert "failing hwmon" in line
    assert line.endswith("alerts DimmHot")


def test_the_table_has_the_alerts_sentence() -> None:
    """Below the rows stands each alert with its severity and its own summary, and where to look next."""
    console = Console(file=io.StringIO(), width=120)
    console.print(build_table(VIEW, "http://127.0.0.1:9817/"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO

    assert "warning  DimmHot: DIMM 3-0050 has only 2.0 °C left." in shown
    assert "http://127.0.0.1:9817/metrics" in shown


def test_nothing_is_invented() -> None:
    """A host without sensors and engines says so in words, and shows no number."""
    empty = replace(VIEW, engines=(), hottest=None, frequency=None, remote=None, nodes=(), failing=(), alerts=())
    line = format_plain(empty)

    assert "hottest no sensor here" in line
    assert "frequency no cpufreq here" in line
    assert "remote no data yet" in line
    assert "none: name one under engines:" in line


@given(st.lists(st.none() | st.floats(0, 1e9)))
def test_a_sparkline_has_a_character_for_each_value(trail: list[float | None]) -> None:
    """Each value is one character, a missing one a gap; without any speed there is no line at all."""
    line = draw_sparkline(trail)

    assert len(line) in (0, len(trail))
    assert all((character == " ") is (value is None) for character, value in zip(line, trail, strict=False))


@pytest.mark.parametrize(("share", "shown"), [(-1.0, "░" * 10), (0.5, "█████░░░░░"), (7.0, "█" * 10)])
def test_a_bar_stays_a_bar(share: float, shown: str) -> None:
    """A share outside 0 to 1 is drawn as the nearest end."""
    assert draw_bar(share) == shown


def test_without_a_terminal_there_are_plain_lines() -> None:
    """A stream that is no terminal gets lines, not a table."""
    stream = io.StringIO()
    screen = open_screen(stream, "http://x/")
    assert screen.is_due()
    screen.show(VIEW)

    assert not screen.is_due()
    assert stream.getvalue() == format_plain(VIEW) + "\n"


def test_the_view_is_what_history_holds() -> None:
    """The hottest sensor, each node's memory and the failing collectors come from the newest readings."""
    history = History(3_600_000)
    heat = gauge("steadytok_hwmon_temperature_celsius", "Heat.")
    available = gauge("steadytok_node_meminfo_available_bytes", "Available.")
    total = gauge("steadytok_node_meminfo_mem_total_bytes", "Total.")
    success = gauge("steadytok_collector_success", "Success.")
    history.record(
        "hwmon",
        1000,
        [
            Sample(heat, (("chip", "jc42"), ("device", "a")), 50.0),
            Sample(heat, (("chip", "jc42"), ("device", "b")), 61.0),
        ],
    )
    history.record(
        "node_meminfo", 1000, [Sample(available, (("node", "0"),), 3 * GIB), Sample(total, (("node", "0"),), 4 * GIB)]
    )
    history.record("agent", 1000, [Sample(success, (("collector", "edac"),), 0.0)])
    view = HostViewBuilder().build(history, [HOT], Baseline(), 1500)

    assert view.hottest == ("jc42 b", 61.0)
    assert view.nodes == (NodeView("0", 3 * GIB, 4 * GIB),)
    assert view.failing == ("edac",)
    assert view.alerts == (HOT,)


def test_the_hottest_may_be_a_module_that_only_the_bmc_sees() -> None:
    """On most servers the modules' heat comes from the BMC or the processor, and it is shown all the same."""
    history = History(3_600_000)
    chip, module = (gauge(f"steadytok_{name}_temperature_celsius", "Heat.") for name in ("hwmon", "dimm"))
    history.record("hwmon", 1000, [Sample(chip, (("chip", "coretemp"), ("device", "coretemp.0")), 61.0)])
    history.record("ipmi", 1000, [Sample(module, (("dimm", "P1-DIMMA1"), ("source", "ipmi")), 83.0)])

    assert HostViewBuilder().build(history, [], Baseline(), 1500).hottest == ("ipmi P1-DIMMA1", 83.0)
