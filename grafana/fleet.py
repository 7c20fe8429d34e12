"""*Which host needs me?*: all hosts of a fleet, from the series that `docs/examples/fleet-recording.yml` records."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import DashboardRow, DashboardVariable, build_dashboard
from grafana.healthy import CRITICAL, HEADROOM, WARNING
from grafana.panels import FieldOptions, PanelJson, PanelTarget, Thresholds, build_stat, build_table, build_time_series
from grafana.slow import OF_BASELINE

HOSTS = 'job="steadytok",instance=~"$instance"'
INSTANCES = DashboardVariable("instance", "Hosts", 'steadytok_build_info{job="steadytok"}', multi=True)
MEMORY_LEFT_RATIO = Thresholds("red", ((0.04, "orange"), (0.1, "green")))
MAX_HOSTS = 15  # hosts in a panel; nobody reads more


def build() -> dict[str, Any]:
    """Returns the dashboard."""
    return build_dashboard(
        "steadytok-fleet",
        "Which host needs me?",
        "All inference hosts: which are silent, slow, hot or full, and what remedies do about it.",
        [
            DashboardRow("At a glance", _build_glance_panels()),
            DashboardRow("Hosts, the worst first", [_build_hosts_panel()]),
            DashboardRow("The worst over time", _build_worst_panels()),
            DashboardRow("Agents", _build_agent_panels()),
        ],
        variables=[INSTANCES],
        annotations=[],
        since="now-6h",
    )


def _build_glance_panels() -> list[PanelJson]:
    exprs = {
        "alerts": f"instance:steadytok_alerts:sum{{{HOSTS}}}",
        "speed": f"instance:steadytok_engine_speed_of_baseline_ratio:min{{{HOSTS}}}",
        "duty": f"instance:steadytok_pace_duty:min{{{HOSTS}}}",
        "acting": f"instance:steadytok_remedy_running:count{{{HOSTS}}}",
        "gave up": f"instance:steadytok_remedy_gave_up:count{{{HOSTS}}}",
    }
    stats = (
        ("Hosts that answer", "Agents that the last scrape reached.",
         f"sum(up{{{HOSTS}}})", FieldOptions("short")),
        ("Silent", "Agents that the last scrape did not reach: these hosts are unwatched.",
         f"count(up{{{HOSTS}}} == 0) or vector(0)", FieldOptions("short", CRITICAL)),
        ("With a critical alert", "Hosts on which an alert of severity critical fires.",
         f'count(instance:steadytok_alerts:sum{{{HOSTS},severity="critical"}} > 0) or vector(0)',
         FieldOptions("short", CRITICAL)),
        ("Slow", "Hosts with an engine below 80 % of its usual speed, except those that a remedy holds back.",
         f"count({exprs['speed']} < 0.8 unless on (instance) {exprs['duty']} < 1) or vector(0)",
         FieldOptions("short", WARNING)),
        ("A remedy acts", "Hosts on which a remedy acts now.",
         f"count({exprs['acting']} > 0) or vector(0)", FieldOptions("short", Thresholds("green", ((1, "blue"),)))),
        ("A remedy gave up", "Hosts that need a person.",
         f"count({exprs['gave up']} > 0) or vector(0)", FieldOptions("short", CRITICAL)),
    )  # fmt: skip
    return [
        build_stat(title, description, field_options, PanelTarget(expr, title))
        for title, description, expr, field_options in stats
    ]


def _build_hosts_panel() -> PanelJson:
    def query_recorded(name: str) -> PanelTarget:
        return PanelTarget(f"max by (instance) (instance:steadytok_{name}{{{HOSTS}}})", "")

    panel = build_table(
        "Hosts",
        "Choose a name to see the host. Speed: the slowest engine, of its baseline. Degrees left: the hottest DIMM's. "
        "Local: the engine with the lowest share of memory on its threads' nodes.",
        FieldOptions("short"),
        {
            "instance": "Host",
            "Value #A": "Critical and warning alerts",
            "Value #B": "Speed",
            "Value #C": "Tokens/s",
            "Value #D": "Degrees left",
            "Value #E": "Slowed by heat",
            "Value #F": "Fullest node: left",
            "Value #G": "Local",
            "Value #H": "Duty",
        },
        PanelTarget(f"sum by (instance) (instance:steadytok_alerts:sum{{{HOSTS}}})", ""),
        query_recorded("engine_speed_of_baseline_ratio:min"),
        query_recorded("engine_tokens_per_second:sum"),
        query_recorded("dimm_headroom_celsius:min"),
        query_recorded("thermal_throttle_seconds:max_rate5m"),
        query_recorded("node_meminfo_available_ratio:min"),
        query_recorded("process_local_ratio:min"),
        query_recorded("pace_duty:min"),
        column_options={
            "Critical and warning alerts": FieldOptions("short", WARNING),
            "Speed": FieldOptions("percentunit", _to_ratio(OF_BASELINE), decimals=0),
            "Tokens/s": FieldOptions("short", decimals=1),
            "Degrees left": FieldOptions("celsius", HEADROOM, decimals=1),
            "Slowed by heat": FieldOptions(
                "percentunit", Thresholds("green", ((0.01, "orange"), (0.1, "red"))), decimals=1
            ),
            "Fullest node: left": FieldOptions("percentunit", MEMORY_LEFT_RATIO, decimals=1),
            "Local": FieldOptions("percentunit", decimals=0),
            "Duty": FieldOptions("percentunit", Thresholds("blue", ((1, "green"),)), decimals=0),
        },
        sort=("Critical and warning alerts", True),
        width=24,
        height=12,
    )
    link = "/d/steadytok-slow?var-instance=${__value.raw}&var-datasource=${datasource}&${__url_time_range}"
    links = {"id": "links", "value": [{"title": "Why is it slow?", "url": link}]}
    panel["fieldConfig"]["overrides"].append({"matcher": {"id": "byName", "options": "Host"}, "properties": [links]})
    return panel


def _to_ratio(percent: Thresholds) -> Thresholds:
    return Thresholds(percent.base, tuple((value / 100, colour) for value, colour in percent.steps))


def _build_worst_panels() -> list[PanelJson]:
    def query_lowest(name: str) -> PanelTarget:
        return PanelTarget(f"bottomk({MAX_HOSTS}, instance:steadytok_{name}{{{HOSTS}}})", "{{instance}}")

    def query_highest(name: str) -> PanelTarget:
        return PanelTarget(f"topk({MAX_HOSTS}, instance:steadytok_{name}{{{HOSTS}}})", "{{instance}}")

    return [
        build_time_series(
            "Slowest against their usual speed",
            "Each host's slowest engine; 100 % is its usual speed.",
            FieldOptions("percentunit", Thresholds("red", ((0.8, "green"),), area=True), min=0),
            query_lowest("engine_speed_of_baseline_ratio:min"),
        ),
        build_time_series(
            "Closest to a DIMM's limit",
            "Degrees until the limit of the hottest module; below 0 firmware slows memory.",
            FieldOptions("celsius"),
            query_lowest("dimm_headroom_celsius:min"),
        ),
        build_time_series(
            "Slowed most by heat",
            "Share of the time in which heat slowed each host's worst processor.",
            FieldOptions("percentunit", min=0),
            query_highest("thermal_throttle_seconds:max_rate5m"),
        ),
        build_time_series(
            "Fullest NUMA nodes",
            "Memory left on the fullest node of each host.",
            FieldOptions("percentunit", min=0),
            query_lowest("node_meminfo_available_ratio:min"),
        ),
        build_time_series(
            "Least memory left",
            "Available memory of the whole host.",
            FieldOptions("percentunit", min=0),
            query_lowest("meminfo_mem_available_ratio:min"),
        ),
        build_time_series(
            "Tokens per second of the fleet",
            "Total of all hosts, independent of the selection above.",
            FieldOptions("short", min=0),
            PanelTarget('job:steadytok_engine_tokens_per_second:sum{job="steadytok"}', "all hosts"),
        ),
    ]


def _build_agent_panels() -> list[PanelJson]:
    return [
        build_time_series(
            "Versions",
            "Number of agents by version.",
            FieldOptions("short", min=0, decimals=0),
            PanelTarget('job:steadytok_build_info:count{job="steadytok"}', "{{version}}"),
            stacked=True,
        ),
        build_table(
            "Silent agents",
            "Agents that the last scrape did not reach; 0 is silent.",
            FieldOptions("short", Thresholds("red", ((1, "green"),))),
            {"instance": "Host", "Value": "Answers"},
            PanelTarget(f"sum by (instance) (up{{{HOSTS}}}) == 0", ""),
        ),
    ]
