"""*Which host needs me?*: all hosts of a fleet, by what the rules of `docs/examples/fleet-recording.yml` record."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import Row, Variable, dashboard
from grafana.healthy import BAD, HEADROOM, WORSE
from grafana.panels import Look, Panel, Query, Steps, number, series, table
from grafana.slow import OF_BASELINE

HOSTS = 'job="steadytok",instance=~"$instance"'
INSTANCES = Variable("instance", "Hosts", 'steadytok_build_info{job="steadytok"}', many=True)
LEFT = Steps("red", ((0.04, "orange"), (0.1, "green")))
SHOWN = 15  # hosts in a panel: more are not read by anybody


def build() -> dict[str, Any]:
    """The dashboard."""
    return dashboard(
        "steadytok-fleet",
        "Which host needs me?",
        "All inference hosts: who is silent, who is slow, who is hot, who is full, and what remedies do about it.",
        [
            Row("At a glance", _glance()),
            Row("Hosts, the worst first", [_hosts()]),
            Row("The worst over time", _worst()),
            Row("Agents", _agents()),
        ],
        variables=[INSTANCES],
        annotations=[],
        since="now-6h",
    )


def _glance() -> list[Panel]:
    recorded = {
        "alerts": f"instance:steadytok_alerts:sum{{{HOSTS}}}",
        "speed": f"instance:steadytok_engine_speed_of_baseline_ratio:min{{{HOSTS}}}",
        "duty": f"instance:steadytok_pace_duty:min{{{HOSTS}}}",
        "acting": f"instance:steadytok_remedy_running:count{{{HOSTS}}}",
        "gave up": f"instance:steadytok_remedy_gave_up:count{{{HOSTS}}}",
    }
    asked = (
        ("Hosts that answer", "Agents that the last scrape reached.",
         f"sum(up{{{HOSTS}}})", Look("short")),
        ("Silent", "Agents that the last scrape did not reach: nobody watches these hosts.",
         f"count(up{{{HOSTS}}} == 0) or vector(0)", Look("short", BAD)),
        ("With a critical alert", "Hosts on which an alert of severity critical fires.",
         f'count(instance:steadytok_alerts:sum{{{HOSTS},severity="critical"}} > 0) or vector(0)', Look("short", BAD)),
        ("Slow", "Hosts with an engine below 80 % of its usual speed, but for those that a remedy holds back.",
         f"count({recorded['speed']} < 0.8 unless on (instance) {recorded['duty']} < 1) or vector(0)",
         Look("short", WORSE)),
        ("A remedy acts", "Hosts that an agent holds back, or otherwise acts on.",
         f"count({recorded['acting']} > 0) or vector(0)", Look("short", Steps("green", ((1, "blue"),)))),
        ("A remedy gave up", "Hosts on which somebody has to look.",
         f"count({recorded['gave up']} > 0) or vector(0)", Look("short", BAD)),
    )  # fmt: skip
    return [number(title, description, look, Query(expr, title)) for title, description, expr, look in asked]


def _hosts() -> Panel:
    def recorded(name: str) -> Query:
        return Query(f"max by (instance) (instance:steadytok_{name}{{{HOSTS}}})", "")

    panel = table(
        "Hosts",
        "Choose a name to see the host. Speed: the slowest engine against its usual. Degrees left: the hottest DIMM's. "
        "Local: of the engine that has least of its memory where its threads run.",
        Look("short"),
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
        Query(f"sum by (instance) (instance:steadytok_alerts:sum{{{HOSTS}}})", ""),
        recorded("engine_speed_of_baseline_ratio:min"),
        recorded("engine_tokens_per_second:sum"),
        recorded("dimm_headroom_celsius:min"),
        recorded("thermal_throttle_seconds:max_rate5m"),
        recorded("node_meminfo_available_ratio:min"),
        recorded("process_local_ratio:min"),
        recorded("pace_duty:min"),
        units={
            "Critical and warning alerts": Look("short", WORSE),
            "Speed": Look("percentunit", _ratio(OF_BASELINE), decimals=0),
            "Tokens/s": Look("short", decimals=1),
            "Degrees left": Look("celsius", HEADROOM, decimals=1),
            "Slowed by heat": Look("percentunit", Steps("green", ((0.01, "orange"), (0.1, "red"))), decimals=1),
            "Fullest node: left": Look("percentunit", LEFT, decimals=1),
            "Local": Look("percentunit", decimals=0),
            "Duty": Look("percentunit", Steps("blue", ((1, "green"),)), decimals=0),
        },
        sort=("Critical and warning alerts", True),
        width=24,
        height=12,
    )
    link = "/d/steadytok-slow?var-instance=${__value.raw}&var-datasource=${datasource}&${__url_time_range}"
    opened = {"id": "links", "value": [{"title": "Why is it slow?", "url": link}]}
    panel["fieldConfig"]["overrides"].append({"matcher": {"id": "byName", "options": "Host"}, "properties": [opened]})
    return panel


def _ratio(percent: Steps) -> Steps:
    return Steps(percent.first, tuple((value / 100, colour) for value, colour in percent.above))


def _worst() -> list[Panel]:
    def least(name: str) -> Query:
        return Query(f"bottomk({SHOWN}, instance:steadytok_{name}{{{HOSTS}}})", "{{instance}}")

    def most(name: str) -> Query:
        return Query(f"topk({SHOWN}, instance:steadytok_{name}{{{HOSTS}}})", "{{instance}}")

    return [
        series(
            "Slowest against their usual speed",
            "Each host's slowest engine; 100 % is usual.",
            Look("percentunit", Steps("red", ((0.8, "green"),), area=True), least=0),
            least("engine_speed_of_baseline_ratio:min"),
        ),
        series(
            "Closest to a DIMM's limit",
            "Degrees that the hottest module has left; below 0 firmware slows memory.",
            Look("celsius"),
            least("dimm_headroom_celsius:min"),
        ),
        series(
            "Slowed most by heat",
            "Of the time, of each host's worst processor.",
            Look("percentunit", least=0),
            most("thermal_throttle_seconds:max_rate5m"),
        ),
        series(
            "Fullest NUMA nodes",
            "Memory left on the fullest node of each host.",
            Look("percentunit", least=0),
            least("node_meminfo_available_ratio:min"),
        ),
        series(
            "Least memory left",
            "Of the whole host.",
            Look("percentunit", least=0),
            least("meminfo_mem_available_ratio:min"),
        ),
        series(
            "Tokens per second of the fleet",
            "Of all hosts together, whichever are chosen above.",
            Look("short", least=0),
            Query('job:steadytok_engine_tokens_per_second:sum{job="steadytok"}', "all hosts"),
        ),
    ]


def _agents() -> list[Panel]:
    return [
        series(
            "Versions",
            "Agents by version.",
            Look("short", least=0, decimals=0),
            Query('job:steadytok_build_info:count{job="steadytok"}', "{{version}}"),
            stacked=True,
        ),
        table(
            "Silent agents",
            "Those that the last scrape did not reach; 0 is silent.",
            Look("short", Steps("red", ((1, "green"),))),
            {"instance": "Host", "Value": "Answers"},
            Query(f"sum by (instance) (up{{{HOSTS}}}) == 0", ""),
        ),
    ]
