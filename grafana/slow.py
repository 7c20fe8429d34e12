"""*Why is it slow?*: tokens per second above heat, frequency, placement and page cache, on one time axis."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import ENGINE, INSTANCE, Row, alerts_and_remedies, dashboard
from grafana.healthy import HEADROOM, throttled
from grafana.panels import HOST, Look, Panel, Query, Right, Steps, number, series, table

ENGINES = f'{HOST},engine=~"$engine"'
OF_BASELINE = Steps("red", ((80, "orange"), (90, "green")))  # ThroughputSagging comes below 80 %
PAGE = 4096  # bytes; refaults are counted in pages
HEIGHT = 7


def build() -> dict[str, Any]:
    """The dashboard."""
    return dashboard(
        "steadytok-slow",
        "Why is it slow?",
        "Tokens per second above what can take them: heat, frequency, placement, page cache, and the requests.",
        [
            Row("Is it slow?", _verdict()),
            Row("All on one axis: 100 is as good as it gets", [_together()]),
            Row("One below the other", [_speed(), _heat(), _frequency(), _placement(), _traffic(), _cache()]),
            Row("Or is it the requests?", _requests()),
            Row("Or somebody else?", _others()),
        ],
        variables=[INSTANCE, ENGINE],
        annotations=alerts_and_remedies(HOST),
    )


def of_baseline(engines: str) -> str:
    """Percent of the usual speed at which each engine decodes now; an idle engine has no value."""
    return (
        f"100 * max by (instance, engine) (steadytok_engine_tokens_per_second{{{engines}}})"
        f" / on (instance, engine) max by (instance, engine) (steadytok_engine_baseline_tokens_per_second{{{engines}}})"
    )


def _verdict() -> list[Panel]:
    return [
        number(
            "Of the usual speed",
            "The slowest engine that decodes now, against its baseline. No value: nobody decodes, or none is learnt.",
            Look("percent", OF_BASELINE, decimals=0),
            Query(f"min({of_baseline(ENGINES)})", "of baseline"),
        ),
        number(
            "Tokens per second",
            "Decoded tokens per second of decoding, of all engines shown.",
            Look("short", decimals=1),
            Query(f"sum(steadytok_engine_tokens_per_second{{{ENGINES}}})", "tokens/s"),
        ),
        number(
            "Held back by us",
            "The lowest share of the time that the agent lets an engine work. Below 100 % a remedy paces it.",
            Look("percentunit", Steps("blue", ((1, "green"),)), least=0, most=1, decimals=0),
            Query(f"min(steadytok_pace_duty{{{ENGINES}}})", "duty"),
        ),
        table(
            "What else is up",
            "DimmHot and CpuThermalThrottling mean heat; NumaAllocationDrift, PlacementDrift, AllRanksOnOneNode and "
            "BindingIneffective placement; WeightsEvicted and MemoryPressure the page cache.",
            Look("short"),
            {"alertname": "Alert", "severity": "Severity", "alertstate": "State", "Value": "Number"},
            Query(f'sum by (alertname, severity, alertstate) (steadytok_alerts{{{HOST},severity!="none"}}) > 0', ""),
            sort=("Severity", False),
            height=4,
        ),
    ]


def _together() -> Panel:
    """The four causes in one measure, so that the one that falls with the speed is seen at a glance."""
    frequency = (
        f"100 * quantile(0.75, steadytok_cpufreq_frequency_hertz{{{HOST}}})"
        f" / max(steadytok_cpufreq_frequency_max_hertz{{{HOST}}})"
    )
    return series(
        "Speed, heat, frequency, placement and page cache",
        "Speed: of the baseline. Heat: degrees left of the hottest DIMM, 100 is 20 °C or more. Frequency: of the "
        "hardware's. Placement: local memory of the engine that has least. Cache: time without waiting for memory.",
        Look("percent", least=0, most=110),
        Query(f"min({of_baseline(ENGINES)})", "speed"),
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


def _strip(
    title: str, description: str, look: Look, *queries: Query, right: Right | None = None, dashed: str | None = None
) -> Panel:
    return series(title, description, look, *queries, right=right, dashed=dashed, width=24, height=HEIGHT)


def _speed() -> Panel:
    return _strip(
        "Tokens per second",
        "Of each engine, and what is usual for it (dashed). Right: the share of the time that it may work.",
        Look("short", least=0),
        Query(f"max by (engine) (steadytok_engine_tokens_per_second{{{ENGINES}}})", "{{engine}}"),
        Query(f"max by (engine) (steadytok_engine_baseline_tokens_per_second{{{ENGINES}}})", "{{engine}} baseline"),
        Query(f"min by (engine) (steadytok_pace_duty{{{ENGINES}}})", "{{engine}} duty"),
        right=Right("duty$", "percentunit"),
        dashed="baseline$",
    )


def _heat() -> Panel:
    return _strip(
        "Heat",
        "The hottest memory module of each node and the lowest limit (dashed). Right: time that processors slowed "
        "themselves, in percent.",
        Look("celsius", HEADROOM),
        Query(f"max by (node) (steadytok_dimm_temperature_celsius{{{HOST}}})", "DIMMs, node {{node}}"),
        Query(f"min(steadytok_dimm_limit_celsius{{{HOST}}})", "limit"),
        Query(throttled(HOST), "slowed"),
        right=Right("^slowed$", "percent"),
        dashed="^limit$",
    )


def _frequency() -> Panel:
    return _strip(
        "Frequency",
        "The upper quartile of each node's CPUs: the busy ones. Dashed: the highest that is allowed now.",
        Look("hertz", least=0),
        Query(f"quantile by (node) (0.75, steadytok_cpufreq_frequency_hertz{{{HOST}}})", "node {{node}}"),
        Query(f"min(steadytok_cpufreq_frequency_limit_hertz{{{HOST}}})", "limit"),
        dashed="^limit$",
    )


def _placement() -> Panel:
    missed = f"sum by (node) (rate(steadytok_numastat_numa_foreign_total{{{HOST}}}[$__rate_interval]))"
    return _strip(
        "Placement",
        "Share of each engine's memory that is local to its threads, and how far it has moved since it was fast. "
        "Right: allocations per second that wanted the node and did not fit.",
        Look("percentunit", least=0, most=1),
        Query(f"steadytok_process_local_ratio{{{ENGINES}}}", "{{engine}} rank {{rank}}: local"),
        Query(f"steadytok_process_placement_drift{{{ENGINES}}}", "{{engine}} rank {{rank}}: moved"),
        Query(missed, "node {{node}}: misses"),
        right=Right("misses$", "ops"),
    )


def _traffic() -> Panel:
    return _strip(
        "Memory traffic",
        "Bytes per second of each L3 domain to its own node and to others (resctrl), or of a socket (HSMP). No value: "
        "neither is there.",
        Look("Bps", least=0),
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


def _cache() -> Panel:
    refaults = f"rate(steadytok_vmstat_workingset_refault_file_total{{{HOST}}}[$__rate_interval])"
    return _strip(
        "Page cache",
        "Bytes per second that were evicted and read again: mmap'ed weights. Right: faults per second that waited for "
        "a disk.",
        Look("Bps", Steps("green", ((2500 * PAGE, "orange"),)), least=0),  # WeightsEvicted comes at 2,500 pages
        Query(f"{PAGE} * max({refaults})", "read again"),
        Query(f"max(rate(steadytok_vmstat_pgmajfault_total{{{HOST}}}[$__rate_interval]))", "waits"),
        right=Right("^waits$", "ops"),
    )


def _requests() -> list[Panel]:
    def per_second(name: str) -> str:
        return f"rate(steadytok_engine_{name}_total{{{ENGINES}}}[$__rate_interval])"

    by_engine = "sum by (engine) "
    return [
        series(
            "Requests",
            "Being worked on and queued. A busy batch makes fewer tokens for each request and is not slow for that.",
            Look("short", least=0),
            Query(f"sum by (engine) (steadytok_engine_requests_running{{{ENGINES}}})", "{{engine}} running"),
            Query(f"sum by (engine) (steadytok_engine_requests_waiting{{{ENGINES}}})", "{{engine}} waiting"),
        ),
        series(
            "Seconds for a token",
            "Decode seconds for each token: it grows with the context, and with anything above.",
            Look("s", least=0),
            Query(
                f"{by_engine}({per_second('decode_seconds')}) / ({by_engine}({per_second('generated_tokens')}) > 0)",
                "{{engine}}",
            ),
        ),
        series(
            "Time to the first token",
            "From arrival, queueing included.",
            Look("s", least=0),
            Query(
                f"{by_engine}({per_second('first_token_seconds')}) / ({by_engine}({per_second('first_tokens')}) > 0)",
                "{{engine}}",
            ),
        ),
        series(
            "KV cache",
            "Share in use. Right: requests per second that were set back because it was full.",
            Look("percentunit", Steps("green", ((0.9, "orange"),), area=True), least=0, most=1),
            Query(f"max by (engine) (steadytok_engine_kv_cache_usage_ratio{{{ENGINES}}})", "{{engine}}"),
            Query(f"{by_engine}({per_second('preemptions')})", "{{engine}} set back"),
            right=Right("set back$", "ops"),
        ),
        series(
            "Tokens made and read",
            "Per second of the clock, of all requests.",
            Look("short", least=0),
            Query(f"{by_engine}({per_second('generated_tokens')})", "{{engine}} generated"),
            Query(f"{by_engine}({per_second('prompt_tokens')})", "{{engine}} of prompts"),
        ),
        series(
            "Bandwidth that decoding reaches",
            "Of the reference engine: what decoding must read, over what a matrix product reached at its start.",
            Look("percentunit", least=0, most=1),
            Query(f"max by (engine) (steadytok_engine_bandwidth_efficiency_ratio{{{ENGINES}}})", "{{engine}}"),
        ),
    ]


def _others() -> list[Panel]:
    taken = f'rate(steadytok_stat_cpu_seconds_total{{{HOST},mode=~"steal|iowait|system|softirq"}}[$__rate_interval])'
    return [
        series(
            "Time that is not the engine's",
            "Steal, waiting for disks, the kernel and interrupts, as a share of all CPUs.",
            Look("percentunit", least=0),
            Query(f"sum by (mode) ({taken}) / scalar(sum(steadytok_stat_cpus_online{{{HOST}}}))", "{{mode}}"),
            stacked=True,
        ),
        series(
            "Threads moved, tasks that want to run",
            "Moves of the engines' threads between processors per second. Right: tasks that run or could.",
            Look("ops", least=0),
            Query(
                f"sum by (engine) (rate(steadytok_process_thread_migrations_total{{{ENGINES}}}[$__rate_interval]))",
                "{{engine}} moves",
            ),
            Query(f"steadytok_stat_processes_running{{{HOST}}}", "tasks"),
            right=Right("^tasks$", "short"),
        ),
    ]
