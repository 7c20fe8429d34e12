"""The rows that a person at a terminal sees of a running agent."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from agent.console.host_view import HostContext, HostView
from agent.console.live_table import build_table, format_plain, open_screen
from agent.console.overview import (
    AlertSummary,
    CanaryCost,
    CollectorSummary,
    EngineSummary,
    Overview,
    PanelLine,
)
from agent.console.panels import Panel, PanelQuery, load_panels
from agent.console.rows import Row, build_rows
from collectors import Sample, gauge
from rules.alerts import Alert, AlertState
from rules.history.history import History

GIB = float(1 << 30)
PANELS = {panel.id: panel for panel in load_panels()}
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


def build_line(name: str, value: float, style: str = "line", owner: str = "", note: str = "") -> PanelLine:
    """Returns a line with one value in its trail."""
    return PanelLine(name, style, value, note, (None, value), owner)


OVERVIEW = Overview(
    now=60.0,
    age=0.0,
    host="box",
    version="1",
    panels=(
        (PANELS["speed"], (build_line("r1", 61.24), build_line("r1 baseline", 80.0, "reference", "r1"))),
        (PANELS["heat"], (build_line("3-0050", 83.4), build_line("limit", 85.0, "limit"))),
        (PANELS["frequency"], (build_line("mean", 2.1), build_line("allowed", 3.8, "reference"))),
        (PANELS["remote"], (build_line("all nodes", 12.5),)),
        (PANELS["memory"], (build_line("node 0", 25.0, note="3.0 GiB left"), build_line("node 1", 97.0))),
    ),
    alerts=(AlertSummary("DimmHot", "firing", "warning", "DIMM 3-0050 has only 2.0 °C left.", 0.0),),
    collectors=(
        CollectorSummary("hwmon", 1.0, None, None, "failing"),
        CollectorSummary("edac", 1.0, None, None, "2 missing"),
    ),
    engines=(EngineSummary("r1", True, 1.0), EngineSummary("r2", False, 0.25), EngineSummary("r3", True, 0.25)),
    series=1234,
    canary=CanaryCost(0.012, 178 * float(1 << 20)),
)


def build_view(history: History, *alerts: Alert, pacing: tuple[str, ...] = (), has_canary: bool = False) -> HostView:
    """Returns a view without a screen."""
    identity = {"instance": "box", "job": "steadytok"}
    return HostView(
        None, HostContext(history, lambda: alerts, lambda: pacing, lambda engine: 0.5, identity, "1", has_canary)
    )


def draw(rows: list[Row]) -> str:
    """Returns the table of the rows as text."""
    stream = io.StringIO()
    Console(file=stream, width=120).print(build_table(rows, "http://127.0.0.1:9817/metrics"))
    return stream.getvalue()


def test_one_line_says_it_all() -> None:
    """The plain line has speeds, baselines, heat, frequency, remote share, memory by node and alerts, with units."""
    line = format_plain(build_rows(OVERVIEW))

    assert "speed: r1 61.2 tokens/s | speed: r1 baseline 80.0 tokens/s" in line
    assert "engine r2 DOWN" in line
    assert "engine r3 idle, baseline 25% learnt" in line
    assert "engine r1" not in line
    assert "hottest dimm: 3-0050 83.4 °C" in line
    assert "frequency: mean 2.10 GHz" in line
    assert "remote: all nodes 12.5 % of allocations" in line
    assert "memory used: node 0 25 %, 3.0 GiB left" in line
    assert "canary takes 1.2% of a core, 178.0 MiB" in line
    assert "alert DimmHot warning for 60 s: DIMM 3-0050 has only 2.0 °C left." in line
    assert "1,234 series" in line
    assert line.endswith("failing hwmon")


def test_details_are_for_top() -> None:
    """`run` leaves out limits, collectors and pending alerts, which `top` shows: its table stays small."""
    pending = replace(OVERVIEW.alerts[0], state="pending")
    rows = list(build_rows(replace(OVERVIEW, alerts=(pending,))))
    details = {row.label for row in rows if row.is_detail}

    assert details == {
        "alert DimmHot",
        "hottest dimm: limit",
        "frequency: allowed",
        "collector hwmon",
        "collector edac",
    }
    assert ("alerts", "none firing") in [(row.label, row.text) for row in rows]
    assert len(rows) - len(details) <= 16


def test_the_table_has_the_alerts_sentence() -> None:
    """Each alert is shown with its severity and its own summary, and the last line has the address of the agent."""
    table = draw(list(build_rows(OVERVIEW)))

    assert "alert DimmHot" in table
    assert "warning for 60 s: DIMM 3-0050 has only 2.0 °C left." in table
    assert "http://127.0.0.1:9817/metrics" in table


def test_colours_show_slow_and_full() -> None:
    """An engine below its baseline is yellow, a full node and an engine that is down are red."""
    colours = {row.label: row.colour for row in build_rows(OVERVIEW)}

    assert colours["speed: r1"] == "yellow"
    assert colours["engine r2"] == "bold red"
    assert (colours["memory used: node 0"], colours["memory used: node 1"]) == ("", "red")


def test_nothing_is_invented() -> None:
    """A host without sensors and engines says so in words, and shows no number."""
    empty = replace(OVERVIEW, panels=tuple((panel, ()) for panel in PANELS.values()), alerts=(), engines=())
    line = format_plain(build_rows(empty))

    assert "hottest dimm No temperature sensor answers on this host." in line
    assert f"frequency {PANELS['frequency'].none}" in line
    assert "remote No allocations in the last minute" in line
    assert "speed No engine generates just now; engines: in the configuration" in line
    assert "alerts none" in line


def test_an_engine_without_metrics_is_not_called_idle() -> None:
    """A living engine that gives no metrics may be busy; its answer stands in its line."""
    overview = replace(OVERVIEW, engines=(EngineSummary("r9", True, 0.0, "key_required"),))
    line = format_plain(build_rows(overview))

    assert "engine r9 no metrics (key_required): steadytok check says what to do" in line
    assert "idle" not in line


def test_an_engines_name_is_no_markup() -> None:
    """Square brackets in a name are shown as they are; rich would raise, and end the agent."""
    overview = replace(OVERVIEW, engines=(EngineSummary("[/r1]", True),))

    assert "[/r1]" in draw(list(build_rows(overview)))


def test_without_a_terminal_there_are_plain_lines() -> None:
    """A stream that is no terminal gets lines, not a table."""
    stream = io.StringIO()
    screen = open_screen(stream, "http://x/")
    assert screen.is_due()
    screen.show(build_rows(OVERVIEW))

    assert not screen.is_due()
    assert stream.getvalue() == format_plain(build_rows(OVERVIEW)) + "\n"


def test_a_view_reads_only_for_a_screen_that_is_due() -> None:
    """The rows of History go to the screen when it is due, and only then."""
    stream = io.StringIO()
    view = build_view(History(3_600_000))
    view.show(1500)
    screen_view = HostView(open_screen(stream, "http://x/"), view._context)
    screen_view.show(1500)
    screen_view.show(2500)

    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().startswith("host box, steadytok 1, ")


def test_the_overview_is_what_history_holds() -> None:
    """The hottest sensor, each node's memory and the failing collectors come from the newest readings."""
    history = History(3_600_000)
    heat = gauge("steadytok_hwmon_temperature_celsius", "Heat.")
    available = gauge("steadytok_node_meminfo_available_bytes", "Available.")
    total = gauge("steadytok_node_meminfo_mem_total_bytes", "Total.")
    success = gauge("steadytok_collector_success", "Success.")
    up = gauge("steadytok_engine_up", "Up.")
    answer = gauge("steadytok_engine_answer_info", "Answer.")
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
    labels = (("answer", "none"), ("engine", "r1"))
    history.record("engine", 1000, [Sample(up, labels[1:], 0.0), Sample(answer, labels, 1.0)])
    overview = build_view(history, HOT, has_canary=True).read_overview(1500)
    lines = {panel.id: [(line.name, line.value, line.note) for line in lines] for panel, lines in overview.panels}

    assert lines["heat"] == [("jc42 b", 61.0, "")]
    assert lines["memory"] == [("node 0", 25.0, "3.0 GiB left")]
    assert [(collector.name, collector.fault) for collector in overview.collectors] == [("edac", "failing")]
    assert [(alert.name, alert.severity) for alert in overview.alerts] == [("DimmHot", "warning")]
    assert overview.engines == (EngineSummary("r1", False, 0.5, "none"),)
    assert not overview.canary_starting


def test_a_canary_that_starts_is_shown() -> None:
    """Until the canary answers the table has a row for its start."""
    overview = build_view(History(3_600_000), has_canary=True).read_overview(1500)

    assert Row("engine canary", "starting", "dim") in list(build_rows(overview))


def test_pacing_has_a_row() -> None:
    """A paced engine's duty and its reason are a row of their own."""
    overview = build_view(History(3_600_000), pacing=("engine r1 at a duty of 0.62: because",)).read_overview(1000)

    assert ("pacing", "engine r1 at a duty of 0.62: because") in [(row.label, row.text) for row in build_rows(overview)]


def test_the_hottest_may_be_a_module_that_only_the_bmc_sees() -> None:
    """On most servers the modules' heat comes from the BMC or the processor, and it is shown all the same."""
    history = History(3_600_000)
    chip, module = (gauge(f"steadytok_{name}_temperature_celsius", "Heat.") for name in ("hwmon", "dimm"))
    history.record("hwmon", 1000, [Sample(chip, (("chip", "coretemp"), ("device", "coretemp.0")), 61.0)])
    history.record("ipmi", 1000, [Sample(module, (("dimm", "P1-DIMMA1"), ("source", "ipmi")), 83.0)])
    overview = build_view(history).read_overview(1500)
    (heat,) = (lines for panel, lines in overview.panels if panel.id == "heat")

    assert [(line.name, line.value) for line in heat] == [("P1-DIMMA1", 83.0)]


def test_a_query_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query without an unambiguous answer leaves its panel empty: the view must not end the agent."""
    history = History(3_600_000)
    first, second = gauge("steadytok_a", "A."), gauge("steadytok_b", "B.")
    pairs = [Sample(metric, (("n", n),), 1.0) for metric in (first, second) for n in "ab"]
    history.record("x", 1000, pairs)
    panel = Panel("x", "X", "u", 0, "None.", (PanelQuery("steadytok_a + on () steadytok_b", "n"),))
    view = build_view(history)
    monkeypatch.setattr(view, "_panels", (panel,))

    assert view.read_overview(1500).panels == ((panel, ()),)
