"""*Why is it slow?*: tokens per second above heat, frequency, placement and page cache, on one time axis."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import ENGINE, INSTANCE, DashboardRow, build_annotations, build_dashboard
from grafana.healthy import HEADROOM, format_throttled
from grafana.panels import (
    HOST,
    FieldOptions,
    PanelJson,
    PanelTarget,
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
    """Returns the dashboard."""
    return build_dashboard(
        "steadytok-slow",
        "Why is it slow?",
        "Tokens per second above their possible causes: heat, frequency, placement, page cache, and the requests.",
        [
            DashboardRow("Is it slow?", _build_verdict_panels()),
            DashboardRow("All on one axis: 100 is as good as it gets", [_build_overlay_panel()]),
            DashboardRow(
                "One by one",
                [
                    _build_speed_panel(),
                    _build_heat_panel(),
                    _build_frequency_panel(),
                    _build_placement_panel(),
                    _build_traffic_panel(),
                    _build_cache_panel(),
                ],
            ),
            DashboardRow("Or is it the requests?", _build_request_panels()),
            DashboardRow("Or other processes?", _build_contention_panels()),
        ],
        variables=[INSTANCE, ENGINE],
        annotations=build_annotations(HOST),
    )


def format_baseline_percent(engines: str) -> str:
    """Returns the query for each engine's decoding speed in percent of its baseline; an idle engine has no value."""
    return (
        f"100 * max by (instance, engine) (steadytok_engine_tokens_per_second{{{engines}}})"
        f" / on (instance, engine) max by (instance, engine) (steadytok_engine_baseline_tokens_per_second{{{engines}}})"
    )


def _build_verdict_panels() -> list[PanelJson]:
    return [
        build_stat(
            "Of the usual speed",
            "Speed of the slowest decoding engine, in percent of its baseline. No value: no engine decodes or has a "
            "baseline.",
            FieldOptions("percent", OF_BASELINE, decimals=0),
            PanelTarget(f"min({format_baseline_percent(ENGINES)})", "of baseline"),
        ),
        build_stat(
            "Tokens per second",
            "Decoded tokens per second of decoding, of all selected engines.",
            FieldOptions("short", decimals=1),
            PanelTarget(f"sum(steadytok_engine_tokens_per_second{{{ENGINES}}})", "tokens/s"),
        ),
        build_stat(
            "Held back by the agent",
            "The lowest duty that the agent sets for an engine. Below 100 % a remedy paces the engine.",
            FieldOptions("percentunit", Thresholds("blue", ((1, "green"),)), min=0, max=1, decimals=0),
            PanelTarget(f"min(steadytok_pace_duty{{{ENGINES}}})", "duty"),
        ),
        build_table(
            "Other active alerts",
            "DimmHot and CpuThermalThrottling mean heat; NumaAllocationDrift, PlacementDrift, AllRanksOnOneNode and "
            "BindingIneffective placement; WeightsEvicted and MemoryPressure the page cache.",
            FieldOptions("short"),
            {"alertname": "Alert", "severity": "Severity", "alertstate": "State", "Value": "Number"},
            PanelTarget(
                f'sum by (alertname, severity, alertstate) (steadytok_alerts{{{HOST},severity!="none"}}) > 0', ""
            ),
            sort=("Severity", False),
            height=4,
        ),
    ]


def _build_overlay_panel() -> PanelJson:
    """Builds the panel with speed and all causes on one scale: the cause that falls with the speed stands out."""
    frequency = (
        f"100 * quantile(0.75, steadytok_cpufreq_frequency_hertz{{{HOST}}})"
        f" / max(steadytok_cpufreq_frequency_max_hertz{{{HOST}}})"
    )
    return build_time_series(
        "Speed, heat, frequency, placement and page cache",
        "Speed: of the baseline. Heat: degrees left of the hottest DIMM, 100 is 20 °C or more. Frequency: of the "
        "hardware's maximum. Placement: lowest local share of an engine. Cache: time without waiting for memory.",
        FieldOptions("percent", min=0, max=110),
        PanelTarget(f"min({format_baseline_percent(ENGINES)})", "speed"),
        PanelTarget(f"100 * clamp(min(steadytok_dimm_headroom_celsius{{{HOST}}}) / 20, 0, 1)", "heat"),
        PanelTarget(frequency, "frequency"),
        PanelTarget(f"100 * min(steadytok_process_local_ratio{{{ENGINES}}})", "placement"),
        PanelTarget(
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
    *queries: PanelTarget,
    right_axis: RightAxis | None = None,
    dashed_pattern: str | None = None,
) -> PanelJson:
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


def _build_speed_panel() -> PanelJson:
    return _build_strip(
        "Tokens per second",
        "Speed of each engine, and its baseline (dashed). Right: the duty that the agent sets.",
        FieldOptions("short", min=0),
        PanelTarget(f"max by (engine) (steadytok_engine_tokens_per_second{{{ENGINES}}})", "{{engine}}"),
        PanelTarget(
            f"max by (engine) (steadytok_engine_baseline_tokens_per_second{{{ENGINES}}})", "{{engine}} baseline"
        ),
        PanelTarget(f"min by (engine) (steadytok_pace_duty{{{ENGINES}}})", "{{engine}} duty"),
        right_axis=RightAxis("duty$", "percentunit"),
        dashed_pattern="baseline$",
    )


def _build_heat_panel() -> PanelJson:
    return _build_strip(
        "Heat",
        "The hottest memory module of each node and the lowest limit (dashed). Right: share of the time in which "
        "processors slowed themselves, in percent.",
        FieldOptions("celsius", HEADROOM),
        PanelTarget(f"max by (node) (steadytok_dimm_temperature_celsius{{{HOST}}})", "DIMMs, node {{node}}"),
        PanelTarget(f"min(steadytok_dimm_limit_celsius{{{HOST}}})", "limit"),
        PanelTarget(format_throttled(HOST), "slowed"),
        right_axis=RightAxis("^slowed$", "percent"),
        dashed_pattern="^limit$",
    )


def _build_frequency_panel() -> PanelJson:
    return _build_strip(
        "Frequency",
        "Upper quartile of each node's CPUs, which are the busy ones. Dashed: the highest permitted frequency.",
        FieldOptions("hertz", min=0),
        PanelTarget(f"quantile by (node) (0.75, steadytok_cpufreq_frequency_hertz{{{HOST}}})", "node {{node}}"),
        PanelTarget(f"min(steadytok_cpufreq_frequency_limit_hertz{{{HOST}}})", "limit"),
        dashed_pattern="^limit$",
    )


def _build_placement_panel() -> PanelJson:
    missed = f"sum by (node) (rate(steadytok_numastat_numa_foreign_total{{{HOST}}}[$__rate_interval]))"
    return _build_strip(
        "Placement",
        "Share of each engine's memory that is local to its threads, and share that has moved since it was fast. "
        "Right: allocations per second that requested the node and did not fit.",
        FieldOptions("percentunit", min=0, max=1),
        PanelTarget(f"steadytok_process_local_ratio{{{ENGINES}}}", "{{engine}} rank {{rank}}: local"),
        PanelTarget(f"steadytok_process_placement_drift{{{ENGINES}}}", "{{engine}} rank {{rank}}: moved"),
        PanelTarget(missed, "node {{node}}: misses"),
        right_axis=RightAxis("misses$", "ops"),
    )


def _build_traffic_panel() -> PanelJson:
    return _build_strip(
        "Memory traffic",
        "Bytes per second of each L3 domain to its own node and to others (resctrl), or of a socket (HSMP). No value: "
        "the host has neither.",
        FieldOptions("Bps", min=0),
        PanelTarget(
            f"sum by (domain) (rate(steadytok_resctrl_mbm_local_bytes_total{{{HOST}}}[$__rate_interval]))",
            "L3 {{domain}}: local",
        ),
        PanelTarget(
            f"sum by (domain) (rate(steadytok_resctrl_mbm_remote_bytes_total{{{HOST}}}[$__rate_interval]))",
            "L3 {{domain}}: remote",
        ),
        PanelTarget(f"steadytok_hsmp_ddr_bandwidth_bytes_per_second{{{HOST}}}", "socket {{socket}}"),
    )


def _build_cache_panel() -> PanelJson:
    # Before Linux 5.9 refaults of files have no suffix.
    refaults = " or ".join(
        f"rate(steadytok_vmstat_workingset_refault{suffix}_total{{{HOST}}}[$__rate_interval])"
        for suffix in ("_file", "")
    )
    return _build_strip(
        "Page cache",
        "Bytes per second that were evicted and read again: mmap'ed weights. Right: faults per second that waited for "
        "a disk.",
        FieldOptions(
            "Bps", Thresholds("green", ((2500 * PAGE_BYTES, "orange"),)), min=0
        ),  # WeightsEvicted comes at 2,500 pages
        PanelTarget(f"{PAGE_BYTES} * max({refaults})", "read again"),
        PanelTarget(f"max(rate(steadytok_vmstat_pgmajfault_total{{{HOST}}}[$__rate_interval]))", "waits"),
        right_axis=RightAxis("^waits$", "ops"),
    )


def _build_request_panels() -> list[PanelJson]:
    def format_rate(name: str) -> str:
        return f"rate(steadytok_engine_{name}_total{{{ENGINES}}}[$__rate_interval])"

    by_engine = "sum by (engine) "
    return [
        build_time_series(
            "Requests",
            "Running and queued requests. A large batch makes fewer tokens for each request without being slow.",
            FieldOptions("short", min=0),
            PanelTarget(f"sum by (engine) (steadytok_engine_requests_running{{{ENGINES}}})", "{{engine}} running"),
            PanelTarget(f"sum by (engine) (steadytok_engine_requests_waiting{{{ENGINES}}})", "{{engine}} waiting"),
        ),
        build_time_series(
            "Seconds for a token",
            "Decode seconds for each token; grows with the context, and with every cause above.",
            FieldOptions("s", min=0),
            PanelTarget(
                f"{by_engine}({format_rate('decode_seconds')}) / ({by_engine}({format_rate('generated_tokens')}) > 0)",
                "{{engine}}",
            ),
        ),
        build_time_series(
            "Time to the first token",
            "Seconds from arrival, queueing included.",
            FieldOptions("s", min=0),
            PanelTarget(
                f"{by_engine}({format_rate('first_token_seconds')}) / ({by_engine}({format_rate('first_tokens')}) > 0)",
                "{{engine}}",
            ),
        ),
        build_time_series(
            "KV cache",
            "Share in use. Right: requests per second that were preempted because the cache was full.",
            FieldOptions("percentunit", Thresholds("green", ((0.9, "orange"),), area=True), min=0, max=1),
            PanelTarget(f"max by (engine) (steadytok_engine_kv_cache_usage_ratio{{{ENGINES}}})", "{{engine}}"),
            PanelTarget(f"{by_engine}({format_rate('preemptions')})", "{{engine}} preempted"),
            right_axis=RightAxis("preempted$", "ops"),
        ),
        build_time_series(
            "Generated and prompt tokens",
            "Tokens per second of wall time, of all requests.",
            FieldOptions("short", min=0),
            PanelTarget(f"{by_engine}({format_rate('generated_tokens')})", "{{engine}} generated"),
            PanelTarget(f"{by_engine}({format_rate('prompt_tokens')})", "{{engine}} prompt"),
        ),
        build_time_series(
            "Bandwidth that decoding reaches",
            "Reference engine only: bytes that decoding must read, relative to the bandwidth measured at its start.",
            FieldOptions("percentunit", min=0, max=1),
            PanelTarget(f"max by (engine) (steadytok_engine_bandwidth_efficiency_ratio{{{ENGINES}}})", "{{engine}}"),
        ),
    ]


def _build_contention_panels() -> list[PanelJson]:
    contended = (
        f'rate(steadytok_stat_cpu_seconds_total{{{HOST},mode=~"steal|iowait|system|softirq"}}[$__rate_interval])'
    )
    return [
        build_time_series(
            "Processor time of others",
            "Steal, waiting for disks, kernel and interrupts, as a share of all CPUs.",
            FieldOptions("percentunit", min=0),
            PanelTarget(f"sum by (mode) ({contended}) / scalar(sum(steadytok_stat_cpus_online{{{HOST}}}))", "{{mode}}"),
            stacked=True,
        ),
        build_time_series(
            "Thread migrations and runnable tasks",
            "Migrations of the engines' threads between processors per second. Right: runnable tasks.",
            FieldOptions("ops", min=0),
            PanelTarget(
                f"sum by (engine) (rate(steadytok_process_thread_migrations_total{{{ENGINES}}}[$__rate_interval]))",
                "{{engine}} migrations",
            ),
            PanelTarget(f"steadytok_stat_processes_running{{{HOST}}}", "tasks"),
            right_axis=RightAxis("^tasks$", "short"),
        ),
    ]
