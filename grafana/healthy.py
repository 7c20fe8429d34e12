"""*Is this host healthy?*: heat, errors, pressure and power of one host, and the state of its collectors."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import DashboardRow, build_annotations, build_dashboard
from grafana.panels import (
    HOST,
    NO_THRESHOLDS,
    FieldOptions,
    PanelJson,
    PanelTarget,
    Thresholds,
    ValueMapping,
    build_bar_gauge,
    build_stat,
    build_state_timeline,
    build_table,
    build_text_stat,
    build_time_series,
)

WARNING = Thresholds("green", ((1, "orange"),))
CRITICAL = Thresholds("green", ((1, "red"),))
HEADROOM = Thresholds("red", ((0, "orange"), (5, "green")))  # DimmHot warns 5 °C below the limit
MEMORY_LEFT = Thresholds("red", ((4, "orange"), (10, "green")))  # NodeNearlyFull comes at 4 %
THROTTLED = Thresholds("green", ((1, "orange"), (10, "red")))  # CpuThermalThrottling comes at 1 %
PRESSURE = Thresholds("green", ((0.1, "orange"),), area=True)  # MemoryPressure comes at 10 %
SUCCESS_MAPPINGS: tuple[ValueMapping, ...] = (("0", "failing", "red"), ("1", "ok", "green"))


def build() -> dict[str, Any]:
    """Returns the dashboard."""
    return build_dashboard(
        "steadytok-healthy",
        "Is this host healthy?",
        "Heat, memory, errors and pressure of one inference host, and the readings that its agent lacks.",
        [
            DashboardRow("At a glance", [*_build_glance_panels(), _build_firing_panel(), _build_headroom_panel()]),
            DashboardRow("Heat", _build_heat_panels()),
            DashboardRow("Processors and power", _build_processor_panels()),
            DashboardRow("Memory errors", _build_error_panels()),
            DashboardRow("Can the agent be relied on?", _build_agent_panels()),
        ],
        annotations=build_annotations(HOST),
    )


def format_throttled(host: str) -> str:
    """
    Returns the query for the percentage of time that heat slowed the worst processor or core of each host.

    The query needs its window of 5 minutes.
    """
    return (
        f"100 * max by (instance) (rate(steadytok_thermal_throttle_package_seconds_total{{{host}}}[5m]) or "
        f"rate(steadytok_thermal_throttle_core_seconds_total{{{host}}}[5m]))"
    )


def _format_count(alerts: str) -> str:
    return f"sum(steadytok_alerts{{{HOST},{alerts}}}) or vector(0)"


def _build_glance_panels() -> list[PanelJson]:
    available = f"steadytok_meminfo_mem_available_bytes{{{HOST}}} / steadytok_meminfo_mem_total_bytes{{{HOST}}}"
    node = f"steadytok_node_meminfo_available_bytes{{{HOST}}} / steadytok_node_meminfo_mem_total_bytes{{{HOST}}}"
    return [
        build_stat(
            "Critical alerts",
            "Alerts of severity critical that fire now.",
            FieldOptions("short", CRITICAL),
            PanelTarget(_format_count('alertstate="firing",severity="critical"'), "critical"),
        ),
        build_stat(
            "Warnings",
            "Alerts of severity warning that fire now.",
            FieldOptions("short", WARNING),
            PanelTarget(_format_count('alertstate="firing",severity="warning"'), "warnings"),
        ),
        build_stat(
            "Hottest DIMM: degrees left",
            "Degrees until the memory module that is closest to its limit reaches it. Below 0 firmware slows memory.",
            FieldOptions("celsius", HEADROOM, decimals=1),
            PanelTarget(f"min(steadytok_dimm_headroom_celsius{{{HOST}}})", "headroom"),
        ),
        build_stat(
            "Slowed by heat",
            "Share of the last 5 minutes in which the worst processor slowed itself. No value: no counter (AMD).",
            FieldOptions("percent", THROTTLED, decimals=1),
            PanelTarget(format_throttled(HOST), "throttled"),
        ),
        build_stat(
            "Memory left",
            "Memory available without swapping, as a share of the host's memory.",
            FieldOptions("percent", MEMORY_LEFT, min=0, max=100, decimals=1),
            PanelTarget(f"100 * {available}", "available"),
        ),
        build_stat(
            "Fullest node: memory left",
            "Memory available on the fullest NUMA node. A bound engine dies when its node is full.",
            FieldOptions("percent", MEMORY_LEFT, min=0, max=100, decimals=1),
            PanelTarget(f"100 * min({node})", "available"),
        ),
    ]


def _build_firing_panel() -> PanelJson:
    return build_table(
        "Active alerts",
        "Pending and firing alerts; each has a runbook.",
        FieldOptions("short"),
        {"alertname": "Alert", "severity": "Severity", "alertstate": "State", "Value": "Number"},
        PanelTarget(f'sum by (alertname, severity, alertstate) (steadytok_alerts{{{HOST},severity!="none"}}) > 0', ""),
        sort=("Severity", False),
    )


def _build_headroom_panel() -> PanelJson:
    return build_bar_gauge(
        "Degrees left, by DIMM",
        "Degrees until the limit of each module: the configured limit, else 85 °C or a lower critical limit.",
        FieldOptions("celsius", HEADROOM, min=0, max=40, decimals=1),
        PanelTarget(f"sort(min by (dimm) (steadytok_dimm_headroom_celsius{{{HOST}}}))", "{{dimm}}", instant=True),
    )


def _build_heat_panels() -> list[PanelJson]:
    fans = f"steadytok_hwmon_fan_rpm{{{HOST}}}"
    bmc = f"steadytok_ipmi_fan_rpm{{{HOST}}}"
    return [
        build_time_series(
            "DIMM temperature",
            "Each memory module, by source; the dashed line is the lowest limit.",
            FieldOptions("celsius"),
            PanelTarget(
                f"max by (dimm, source) (steadytok_dimm_temperature_celsius{{{HOST}}})",
                "{{dimm}} ({{source}})",
            ),
            PanelTarget(f"min(steadytok_dimm_limit_celsius{{{HOST}}})", "limit"),
            dashed_pattern="^limit$",
        ),
        build_time_series(
            "Processor temperature",
            "Packages and dies, measured by coretemp or k10temp; they slow themselves at the dashed line.",
            FieldOptions("celsius"),
            PanelTarget(
                f'steadytok_hwmon_temperature_celsius{{{HOST},chip=~"coretemp|k10temp"}}',
                "{{device}} {{label}}",
            ),
            PanelTarget(
                f'min(steadytok_hwmon_temperature_critical_celsius{{{HOST},chip=~"coretemp|k10temp"}})', "critical"
            ),
            dashed_pattern="^critical$",
        ),
        build_time_series(
            "BMC temperatures of air and boards",
            "Inlet and other temperatures that the BMC measures, without the memory modules.",
            FieldOptions("celsius"),
            PanelTarget(f'steadytok_ipmi_temperature_celsius{{{HOST},entity_id!~"8|32"}}', "{{sensor}}"),
        ),
        build_time_series(
            "Fans",
            "Revolutions per minute, from the board's chips and from the BMC. A fan at 0 has stopped.",
            FieldOptions("rotrpm", min=0),
            PanelTarget(f"{fans}", "{{chip}} {{sensor}}"),
            PanelTarget(f"{bmc}", "{{sensor}}"),
        ),
    ]


def _build_processor_panels() -> list[PanelJson]:
    busy = f'rate(steadytok_stat_cpu_seconds_total{{{HOST},mode!~"idle|guest|guest_nice"}}[$__rate_interval])'
    online = f"sum(steadytok_stat_cpus_online{{{HOST}}})"
    waiting = f"rate(steadytok_pressure_waiting_seconds_total{{{HOST}}}[$__rate_interval])"
    stalled = f"rate(steadytok_pressure_stalled_seconds_total{{{HOST}}}[$__rate_interval])"
    return [
        build_time_series(
            "Processor time by mode",
            "Share of all CPUs. steal is time that the hypervisor gave to other guests.",
            FieldOptions("percentunit", min=0, max=1),
            PanelTarget(f"sum by (mode) ({busy}) / scalar({online})", "{{mode}}"),
            stacked=True,
        ),
        build_time_series(
            "Frequency by node",
            "Upper quartile of each node's CPUs, as idle CPUs report any frequency. Dashed: the hardware's maximum.",
            FieldOptions("hertz", min=0),
            PanelTarget(f"quantile by (node) (0.75, steadytok_cpufreq_frequency_hertz{{{HOST}}})", "node {{node}}"),
            PanelTarget(f"max(steadytok_cpufreq_frequency_max_hertz{{{HOST}}})", "highest"),
            dashed_pattern="^highest$",
        ),
        build_time_series(
            "Waiting for memory, disk and processors",
            "Pressure: share of the time in which some task waited, or all tasks did.",
            FieldOptions("percentunit", PRESSURE, min=0),
            PanelTarget(waiting, "{{resource}}: some wait"),
            PanelTarget(stalled, "{{resource}}: all wait"),
        ),
        build_time_series(
            "Power",
            "Power of processors and memory, from RAPL, or from HSMP on AMD.",
            FieldOptions("watt", min=0),
            PanelTarget(
                f"sum by (name) (rate(steadytok_powercap_energy_joules_total{{{HOST}}}[$__rate_interval]))", "{{name}}"
            ),
            PanelTarget(f"steadytok_hsmp_socket_power_watts{{{HOST}}}", "socket {{socket}}"),
        ),
    ]


def _build_error_panels() -> list[PanelJson]:
    corrected = f"steadytok_dimm_correctable_errors_total{{{HOST}}}"
    uncorrected = f"steadytok_dimm_uncorrectable_errors_total{{{HOST}}}"
    return [
        build_time_series(
            "Errors corrected within an hour, by DIMM",
            "24 errors in an hour come from a cell, a contact or heat, not from chance.",
            FieldOptions("short", Thresholds("green", ((24, "orange"),), area=True), min=0),
            PanelTarget(f"max by (dimm) (increase({corrected}[1h]))", "{{dimm}}"),
        ),
        build_table(
            "Errors since the driver was loaded, by DIMM",
            "Any uncorrected error means wrong data.",
            FieldOptions("short"),
            {"dimm": "DIMM", "node": "Node", "Value #A": "Corrected", "Value #B": "Not corrected"},
            PanelTarget(f"max by (dimm, node) ({corrected})", ""),
            PanelTarget(f"max by (dimm, node) ({uncorrected})", ""),
            column_options={"Not corrected": FieldOptions("short", CRITICAL)},
            sort=("Corrected", True),
        ),
    ]


def _build_agent_panels() -> list[PanelJson]:
    return [
        build_state_timeline(
            "Collectors",
            "Success of each collector. Collectors without hardware are absent; steadytok check gives the reason.",
            FieldOptions("short", Thresholds("red", ((1, "green"),)), mappings=SUCCESS_MAPPINGS),
            PanelTarget(f"min by (collector) (steadytok_collector_success{{{HOST}}})", "{{collector}}"),
        ),
        build_time_series(
            "Age of the newest reading",
            "Age in intervals of the collector; above 3 its series end. Without dimm, which derives from others.",
            FieldOptions("short", Thresholds("green", ((3, "orange"),), area=True), min=0),
            PanelTarget(
                f'steadytok_collector_age_seconds{{{HOST},collector!="dimm"}}'
                f" / steadytok_collector_interval_seconds{{{HOST}}}",
                "{{collector}}",
            ),
        ),
        build_table(
            "Missing readings",
            "Readings that the last pass of a collector failed to get, and late passes.",
            FieldOptions("short"),
            {"collector": "Collector", "Value #A": "Missing", "Value #B": "Late passes", "Value #C": "Processor time"},
            PanelTarget(f"sum by (collector) (steadytok_collector_missing_readings{{{HOST}}})", ""),
            PanelTarget(f"sum by (collector) (steadytok_collector_overruns_total{{{HOST}}})", ""),
            PanelTarget(f"sum by (collector) (steadytok_collector_cpu_seconds{{{HOST}}})", ""),
            column_options={"Missing": FieldOptions("short", WARNING), "Processor time": FieldOptions("s")},
            sort=("Missing", True),
            width=8,
        ),
        build_text_stat(
            "Version",
            "The version of the running agent.",
            FieldOptions("short", NO_THRESHOLDS),
            PanelTarget(f"steadytok_build_info{{{HOST}}}", "{{version}}"),
            height=8,
        ),
    ]
