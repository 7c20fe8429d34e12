"""*Why is it slow?*: tokens per second above heat, frequency, placement and page cache, on one time axis."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import ENGINE, INSTANCE, Row, build_annotations, build_dashboard
from grafana.healthy import HEADROOM, format_throttled
from grafana.panels import (
    HOST,
    FieldOptions,
    Panel,
    Query,
    RightAxis,
    Thresholds,
    build_stat,
    build_table,
    build_time_series,
)

ENGINES = f'{HOST},engine=~"$engine"'
OF_BASELINE = Thresholds("red", ((80, "orange"), (90, "green")))  # ThroughputSagging comes below 80 %
PAGE_BYTES = 4096  # bytes; refaults are counted in pages
STRIP_HEIGHT = 7


def build() -> dict[str, Any]:
    """The dashboard."""
    return build_dashboard(
        "steadytok-slow",
        "Why is it slow?",
        "Tokens per second above what can take them: heat, frequency, placement, page cache, and the requests.",
        [
            Row("Is it slow?", _build_verdict_panels()),
            Row("All on one axis: 100 is as good as it gets", [_build_overlay_panel()]),
            Row(
                "One below the other",
                [
                    _build_speed_panel(),
                    _build_heat_panel(),
                    _build_frequency_panel(),
                    _build_placement_panel(),
                    _build_traffic_panel(),
                    _build_cache_panel(),
                ],
            ),
            Row("Or is it the requests?", _build_request_panels()),
            Row("Or somebody else?", _build_contention_panels()),
        ],
        variables=[INSTANCE, ENGINE],
        annotations=build_annotations(HOST),
    )


def format_baseline_percent(engines: str) -> str:
    """Percent of the usual speed at which each engine decodes now; an idle engine has no value."""
    return (
        f"100 * max by (instance, engine) (steadytok_engine_tokens_per_second{{{engines}}})"
        f" / on (instance, engine) max by (instance, engine) (steadytok_engine_baseline_tokens_per_second{{{engines}}})"
    )


def _build_verdict_panels() -> list[Panel]:
    return [
        build_stat(
            "Of the usual speed",
            "The slowest engine that decodes now, against its baseline. No value: nobody decodes, or none is learnt.",
            FieldOptions("percent", OF_BASELINE, decimals=0),
            Query(f"min({format_baseline_percent(ENGINES)})", "of baseline"),
        ),
        build_stat(
            "Tokens per second",
            "Decoded tokens per second of decoding, of all engines shown.",
            FieldOptions("short", decimals=1),
            Query(f"sum(steadytok_engine_tokens_per_second{{{ENGINES}}})", "tokens/s"),
        ),
        build_stat(
            "Held back by us",
            "The lowest share of the time that the agent lets an engine work. Below 100 % a remedy paces it.",
            FieldOptions("percentunit", Thresholds("blue", ((1, "green"),)), min=0, max=1, decimals=0),
            Query(f"min(steadytok_pace_duty{{{ENGINES}}})", "duty"),
        ),
        build_table(
            "What else is up",
            "DimmHot and CpuThermalThrottling mean heat; NumaAllocationDrift, PlacementDrift, AllRanksOnOneNode and "
            "BindingIneffective placement; WeightsEvicted and MemoryPressure the page cache.",
            FieldOptions("short"),
            {"alertname": "Alert", "severity": "Severity", "alertstate": "State", "Value": "Number"},
            Query(f'sum by (alertname, severity, alertstate) (steadytok_alerts{{{HOST},severity!="none"}}) > 0', ""),
            sort=("Severity", False),
            height=4,
        ),
    ]


def _build_overlay_panel() -> Panel:
    """The four causes in one measure, so that the one that falls with the speed is seen at a glance."""
    frequency = (
        f"100 * quantile(0.75, steadytok_cpufreq_frequency_hertz{{{HOST}}})"
        f" / max(steadytok_cpufreq_frequency_max_hertz{{{HOST}}})"
    )
    return build_time_series(
        "Speed, heat, frequency, placement and page cache",
        "Speed: of the baseline. Heat: degrees left of the hottest DIMM, 100 is 20 °C or more. Frequency: of the "
        "hardware's. Placement: local memory of the engine that has least. Cache: time without waiting for memory.",
        FieldOptions("percent", min=0, max=110),
        Query(f"min({format_baseline_percent(ENGINES)})", "speed"),
        Query(f"100 * clamp(min(steadytok_dimm_headroom_celsius{{{HOST}}}) / 20, 0, 1)", "heat"),
        Query(frequency, "frequency"),
        Query(f"100 * min(steadytok_process_local_ratio{{{ENGINES}}})", "placement"),
        Query(
            "100 * (1 - max(rate(steadytok_pressure_waiting_seconds_total"
            f'{{{HOST},resource="memory"}}[$__rate_interval])))',
            "cache",
        ),
        width=24,
        height=10,
    )


def _build_strip(
    title: str,
    description: str,
    field_options: FieldOptions,
    *queries: Query,
    right_axis: RightAxis | None = None,
    dashed_pattern: str | None = None,
) -> Panel:
    return build_time_series(
        title,
        description,
        field_options,
        *queries,
        right_axis=right_axis,
        dashed_pattern=dashed_pattern,
        width=24,
        height=STRIP_HEIGHT,
    )


def _build_speed_panel() -> Panel:
    return _build_strip(
        "Tokens per second",
        "Of each engine, and what is usual for it (dashed). Right: the share of the time that it may work.",
        FieldOptions("short", min=0),
        Query(f"max by (engine) (steadytok_engine_tokens_per_second{{{ENGINES}}})", "{{engine}}"),
        Query(f"max by (engine) (steadytok_engine_baseline_tokens_per_second{{{ENGINES}}})", "{{engine}} baseline"),
        Query(f"min by (engine) (steadytok_pace_duty{{{ENGINES}}})", "{{engine}} duty"),
        right_axis=RightAxis("duty$", "percentunit"),
        dashed_pattern="baseline$",
    )


def _build_heat_panel() -> Panel:
    return _build_strip(
        "Heat",
        "The hottest memory module of each node and the lowest limit (dashed). Right: time that processors slowed "
        "themselves, in percent.",
        FieldOptions("celsius", HEADROOM),
        Query(f"max by (node) (steadytok_dimm_temperature_celsius{{{HOST}}})", "DIMMs, node {{node}}"),
        Query(f"min(steadytok_dimm_limit_celsius{{{HOST}}})", "limit"),
        Query(format_throttled(HOST), "slowed"),
        right_axis=RightAxis("^slowed$", "percent"),
        dashed_pattern="^limit$",
    )


def _build_frequency_panel() -> Panel:
    return _build_strip(
        "Frequency",
        "The upper quartile of each node's CPUs: the busy ones. Dashed: the highest that is allowed now.",
        FieldOptions("hertz", min=0),
        Query(f"quantile by (node) (0.75, steadytok_cpufreq_frequency_hertz{{{HOST}}})", "node {{node}}"),
        Query(f"min(steadytok_cpufreq_frequency_limit_hertz{{{HOST}}})", "limit"),
        dashed_pattern="^limit$",
    )


def _build_placement_panel() -> Panel:
    missed = f"sum by (node) (rate(steadytok_numastat_numa_foreign_total{{{HOST}}}[$__rate_interval]))"
    return _build_strip(
        "Placement",
        "Share of each engine's memory that is local to its threads, and how far it has moved since it was fast. "
        "Right: allocations per second that wanted the node and did not fit.",
        FieldOptions("percentunit", min=0, max=1),
        Query(f"steadytok_process_local_ratio{{{ENGINES}}}", "{{engine}} rank {{rank}}: local"),
        Query(f"steadytok_process_placement_drift{{{ENGINES}}}", "{{engine}} rank {{rank}}: moved"),
        Query(missed, "node {{node}}: misses"),
        right_axis=RightAxis("misses$", "ops"),
    )


def _build_traffic_panel() -> Panel:
    return _build_strip(
        "Memory traffic",
        "Bytes per second of each L3 domain to its own node and to others (resctrl), or of a socket (HSMP). No value: "
        "neither is there.",
        FieldOptions("Bps", min=0),
        Query(
            f"sum by (domain) (rate(steadytok_resctrl_mbm_local_bytes_total{{{HOST}}}[$__rate_interval]))",
            "L3 {{domain}}: local",
        ),
        Query(
            f"sum by (domain) (rate(steadytok_resctrl_mbm_remote_bytes_total{{{HOST}}}[$__rate_interval]))",
            "L3 {{domain}}: remote",
        ),
        Query(f"steadytok_hsmp_ddr_bandwidth_bytes_per_second{{{HOST}}}", "socket {{socket}}"),
    )


def _build_cache_panel() -> Panel:
    refaults = f"rate(steadytok_vmstat_workingset_refault_file_total{{{HOST}}}[$__rate_interval])"
    return _build_strip(
        "Page cache",
        "Bytes per second that were evicted and read again: mmap'ed weights. Right: faults per second that waited for "
        "a disk.",
        FieldOptions(
            "Bps", Thresholds("green", ((2500 * PAGE_BYTES, "orange"),)), min=0
        ),  # WeightsEvicted comes at 2,500 pages
        Query(f"{PAGE_BYTES} * max({refaults})", "read again"),
        Query(f"max(rate(steadytok_vmstat_pgmajfault_total{{{HOST}}}[$__rate_interval]))", "waits"),
        right_axis=RightAxis("^waits$", "ops"),
    )


def _build_request_panels() -> list[Panel]:
    def format_rate(name: str) -> str:
        return f"rate(steadytok_engine_{name}_total{{{ENGINES}}}[$__rate_interval])"

    by_engine = "sum by (engine) "
    return [
        build_time_series(
            "Requests",
            "Being worked on and queued. A busy batch makes fewer tokens for each request and is not slow for that.",
            FieldOptions("short", min=0),
            Query(f"sum by (engine) (steadytok_engine_requests_running{{{ENGINES}}})", "{{engine}} running"),
            Query(f"sum by (engine) (steadytok_engine_requests_waiting{{{ENGINES}}})", "{{engine}} waiting"),
        ),
        build_time_series(
            "Seconds for a token",
            "Decode seconds for each token: it grows with the context, and with anything above.",
            FieldOptions("s", min=0),
            Query(
                f"{by_engine}({format_rate('decode_seconds')}) / ({by_engine}({format_rate('generated_tokens')}) > 0)",
                "{{engine}}",
            ),
        ),
        build_time_series(
            "Time to the first token",
            "From arrival, queueing included.",
            FieldOptions("s", min=0),
            Query(
                f"{by_engine}({format_rate('first_token_seconds')}) / ({by_engine}({format_rate('first_tokens')}) > 0)",
                "{{engine}}",
            ),
        ),
        build_time_series(
            "KV cache",
            "Share in use. Right: requests per second that were set back because it was full.",
            FieldOptions("percentunit", Thresholds("green", ((0.9, "orange"),), area=True), min=0, max=1),
            Query(f"max by (engine) (steadytok_engine_kv_cache_usage_ratio{{{ENGINES}}})", "{{engine}}"),
            Query(f"{by_engine}({format_rate('preemptions')})", "{{engine}} set back"),
            right_axis=RightAxis("set back$", "ops"),
        ),
        build_time_series(
            "Tokens made and read",
            "Per second of the clock, of all requests.",
            FieldOptions("short", min=0),
            Query(f"{by_engine}({format_rate('generated_tokens')})", "{{engine}} generated"),
            Query(f"{by_engine}({format_rate('prompt_tokens')})", "{{engine}} of prompts"),
        ),
        build_time_series(
            "Bandwidth that decoding reaches",
            "Of the reference engine: what decoding must read, over what a matrix product reached at its start.",
            FieldOptions("percentunit", min=0, max=1),
            Query(f"max by (engine) (steadytok_engine_bandwidth_efficiency_ratio{{{ENGINES}}})", "{{engine}}"),
        ),
    ]


def _build_contention_panels() -> list[Panel]:
    contended = (
        f'rate(steadytok_stat_cpu_seconds_total{{{HOST},mode=~"steal|iowait|system|softirq"}}[$__rate_interval])'
    )
    return [
        build_time_series(
            "Time that is not the engine's",
            "Steal, waiting for disks, the kernel and interrupts, as a share of all CPUs.",
            FieldOptions("percentunit", min=0),
            Query(f"sum by (mode) ({contended}) / scalar(sum(steadytok_stat_cpus_online{{{HOST}}}))", "{{mode}}"),
            stacked=True,
        ),
        build_time_series(
            "Threads moved, tasks that want to run",
            "Moves of the engines' threads between processors per second. Right: tasks that run or could.",
            FieldOptions("ops", min=0),
            Query(
                f"sum by (engine) (rate(steadytok_process_thread_migrations_total{{{ENGINES}}}[$__rate_interval]))",
                "{{engine}} moves",
            ),
            Query(f"steadytok_stat_processes_running{{{HOST}}}", "tasks"),
            right_axis=RightAxis("^tasks$", "short"),
        ),
    ]
