"""*Where is the memory?*: memory of the host, of each NUMA node, and of each engine and its cgroup; moved pages."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import ENGINE, INSTANCE, DashboardRow, build_annotations, build_dashboard
from grafana.healthy import MEMORY_LEFT
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


def build() -> dict[str, Any]:
    """Returns the dashboard."""
    return build_dashboard(
        "steadytok-memory",
        "Where is the memory?",
        "Who uses the host's memory, on which NUMA node it is, which placement was requested, and what is left.",
        [
            DashboardRow("The host", [*_build_glance_panels(), _build_host_panel(), _build_reclaim_panel()]),
            DashboardRow("NUMA nodes", [_build_available_panel(), _build_nodes_panel(), *_build_allocation_panels()]),
            DashboardRow("Engines", _build_engine_panels()),
            DashboardRow("Limits", _build_limit_panels()),
            DashboardRow("Modules", [_build_modules_panel(), _build_kills_panel()]),
        ],
        variables=[INSTANCE, ENGINE],
        annotations=build_annotations(HOST),
    )


def _meminfo(field: str) -> str:
    return f"steadytok_meminfo_{field}_bytes{{{HOST}}}"


def _build_glance_panels() -> list[PanelJson]:
    total = _meminfo("mem_total")
    stats = (
        ("Installed", "Memory that the kernel can use.", total, "bytes", Thresholds("text")),
        ("Left", "Share of memory available without swapping.", f"100 * {_meminfo('mem_available')} / {total}",
         "percent", MEMORY_LEFT),
        ("Anonymous", "Memory that could only be swapped out: loaded weights, KV caches.",
         f"{_meminfo('active_anon')} + {_meminfo('inactive_anon')}", "bytes", Thresholds("text")),
        ("Files", "Page cache, mapped weights included.", f"{_meminfo('active_file')} + {_meminfo('inactive_file')}",
         "bytes", Thresholds("text")),
        ("Mapped files", "Page cache that processes map and read as memory: mmap'ed weights.", _meminfo("mapped"),
         "bytes", Thresholds("text")),
        ("Huge pages", "Reserved for huge pages, used or not.",
         f'steadytok_meminfo_huge_pages{{{HOST},state="total"}} * on (instance) {_meminfo("hugepagesize")}',
         "bytes", Thresholds("text")),
    )  # fmt: skip
    return [
        build_stat(title, description, FieldOptions(unit, thresholds, decimals=1), PanelTarget(expr, title))
        for title, description, expr, unit, thresholds in stats
    ]


def _build_host_panel() -> PanelJson:
    unmapped = f"{_meminfo('active_file')} + {_meminfo('inactive_file')} - {_meminfo('mapped')}"
    return build_time_series(
        "Use of the host's memory",
        "Anonymous memory, mapped files, cached files, the kernel's slab, and free memory.",
        FieldOptions("bytes", min=0),
        PanelTarget(f"{_meminfo('active_anon')} + {_meminfo('inactive_anon')}", "anonymous"),
        PanelTarget(_meminfo("mapped"), "mapped files"),
        PanelTarget(f"clamp_min({unmapped}, 0)", "cached files"),
        PanelTarget(f"{_meminfo('sreclaimable')} + {_meminfo('sunreclaim')}", "kernel"),
        PanelTarget(_meminfo("mem_free"), "free"),
        stacked=True,
    )


def _build_reclaim_panel() -> PanelJson:
    def format_rate(name: str) -> str:
        return f"rate(steadytok_vmstat_{name}_total{{{HOST}}}[$__rate_interval])"

    return build_time_series(
        "Reclaim",
        "Pages per second: swapped, read again after an eviction, and scanned by allocations that wait.",
        FieldOptions("ops", min=0),
        PanelTarget(format_rate("pswpin"), "swapped in"),
        PanelTarget(format_rate("pswpout"), "swapped out"),
        PanelTarget(
            f"{format_rate('workingset_refault_file')} or {format_rate('workingset_refault')}",  # before Linux 5.9
            "files read again",
        ),
        PanelTarget(format_rate("pgscan_direct"), "direct reclaim scans"),
    )


def _build_available_panel() -> PanelJson:
    return build_time_series(
        "Available memory by node",
        "Free memory, reclaimable cache and reclaimable slab above the low watermark. An engine bound to a node is "
        "killed when this runs out, even if other nodes have memory.",
        FieldOptions("percent", Thresholds("red", ((4, "orange"), (10, "green")), area=True), min=0, max=100),
        PanelTarget(
            f"100 * steadytok_node_meminfo_available_bytes{{{HOST}}}"
            f" / steadytok_node_meminfo_mem_total_bytes{{{HOST}}}",
            "node {{node}}",
        ),
    )


def _build_nodes_panel() -> PanelJson:
    def query_field(field: str) -> PanelTarget:
        return PanelTarget(f"sum by (node) (steadytok_node_meminfo_{field}_bytes{{{HOST}}})", "")

    anonymous = (
        f"sum by (node) (steadytok_node_meminfo_active_anon_bytes{{{HOST}}} + "
        f"steadytok_node_meminfo_inactive_anon_bytes{{{HOST}}})"
    )
    return build_table(
        "Nodes",
        "Memory by node. Free is near 0 wherever files are cached; look at Left.",
        FieldOptions("bytes", decimals=1),
        {
            "node": "Node",
            "Value #A": "Memory",
            "Value #B": "Left",
            "Value #C": "Free",
            "Value #D": "Anonymous",
            "Value #E": "Mapped",
            "Value #F": "CPUs",
        },
        query_field("mem_total"),
        query_field("available"),
        query_field("mem_free"),
        PanelTarget(anonymous, ""),
        query_field("mapped"),
        PanelTarget(f"sum by (node) (steadytok_topology_node_cpus{{{HOST}}})", ""),
        column_options={"CPUs": FieldOptions("short", decimals=0)},
        sort=("Node", False),
    )


def _build_allocation_panels() -> list[PanelJson]:
    def format_rate(name: str) -> str:
        return f"rate(steadytok_numastat_{name}_total{{{HOST}}}[$__rate_interval])"

    return [
        build_time_series(
            "Allocations that missed their node",
            "Allocations per second, of any size, by the requested node that was full.",
            FieldOptions("ops", min=0),
            PanelTarget(f"sum by (node) ({format_rate('numa_foreign')})", "requested node {{node}}"),
        ),
        build_time_series(
            "Pages that the kernel moved",
            "Pages per second: by NUMA balancing, and by all causes together.",
            FieldOptions("ops", min=0),
            PanelTarget(
                f"rate(steadytok_vmstat_numa_pages_migrated_total{{{HOST}}}[$__rate_interval])", "NUMA balancing"
            ),
            PanelTarget(f"rate(steadytok_vmstat_pgmigrate_success_total{{{HOST}}}[$__rate_interval])", "all causes"),
        ),
    ]


def _build_engine_panels() -> list[PanelJson]:
    return [
        build_time_series(
            "Memory of engines",
            "Resident memory of each process by kind. file: mmap'ed weights; anon: loaded weights and the KV cache.",
            FieldOptions("bytes", min=0),
            PanelTarget(f"steadytok_process_memory_bytes{{{ENGINES}}} > 0", "{{engine}} rank {{rank}}: {{kind}}"),
            stacked=True,
        ),
        build_time_series(
            "Memory of engines by node",
            "Share of each process's resident pages by node, from a sample of the pages.",
            FieldOptions("percentunit", min=0, max=1),
            PanelTarget(f"steadytok_process_node_share_ratio{{{ENGINES}}}", "{{engine}} rank {{rank}}: node {{node}}"),
        ),
        build_time_series(
            "Local and moved memory",
            "Share on the nodes where the threads run, and share that has moved since the engine was fast.",
            FieldOptions("percentunit", min=0, max=1),
            PanelTarget(f"steadytok_process_local_ratio{{{ENGINES}}}", "{{engine}} rank {{rank}}: local"),
            PanelTarget(f"steadytok_process_placement_drift{{{ENGINES}}}", "{{engine}} rank {{rank}}: moved"),
        ),
        build_time_series(
            "Threads by node",
            "The node on which each engine's threads ran last.",
            FieldOptions("short", min=0),
            PanelTarget(f"sum by (engine, node) (steadytok_process_threads{{{ENGINES}}})", "{{engine}}: node {{node}}"),
        ),
        build_table(
            "Requested placement",
            "Options, variables, numactl and cpusets that request a placement. A request that differs from the shares "
            "above has no effect (BindingIneffective).",
            FieldOptions("short"),
            {
                "engine": "Engine",
                "rank": "Rank",
                "source": "Requested by",
                "policy": "Policy",
                "nodes": "Nodes",
                "cpus": "CPUs",
            },
            PanelTarget(
                f"sum by (engine, rank, source, policy, nodes, cpus) (steadytok_process_asked_info{{{ENGINES}}})", ""
            ),
            sort=("Engine", False),
        ),
        build_table(
            "Processes",
            "The engines' processes, for steadytok placement and numastat -p.",
            FieldOptions("short"),
            {"engine": "Engine", "rank": "Rank", "kind": "Kind", "command": "Command", "pid": "PID"},
            PanelTarget(f"sum by (engine, rank, kind, command, pid) (steadytok_process_info{{{ENGINES}}})", ""),
            sort=("Engine", False),
        ),
    ]


def _build_limit_panels() -> list[PanelJson]:
    return [
        build_time_series(
            "Memory of the limiting cgroup",
            "The cgroup with the smallest limit above a process. Above the dashed line the kernel kills.",
            FieldOptions("bytes", min=0),
            PanelTarget(f"max by (engine) (steadytok_process_cgroup_current_bytes{{{ENGINES}}})", "{{engine}}"),
            PanelTarget(f"min by (engine) (steadytok_process_cgroup_max_bytes{{{ENGINES}}})", "{{engine}} limit"),
            dashed_pattern="limit$",
        ),
        build_time_series(
            "Left below every limit",
            "Memory that a process can still allocate, reclaimable cache included. Right: how often the limit was met.",
            FieldOptions("bytes", min=0),
            PanelTarget(f"min by (engine) (steadytok_process_cgroup_available_bytes{{{ENGINES}}})", "{{engine}}"),
            PanelTarget(
                "max by (engine, event) (increase(steadytok_process_cgroup_memory_events_total"
                f'{{{ENGINES},event=~"max|oom|oom_kill"}}[$__rate_interval]))',
                "{{engine}} met {{event}}",
            ),
            right_axis=RightAxis(" met ", "short"),
        ),
    ]


def _build_modules_panel() -> PanelJson:
    return build_table(
        "Memory modules",
        "The module in each slot, as the firmware reports it.",
        FieldOptions("short"),
        {
            "dimm": "Slot",
            "node": "Node",
            "manufacturer": "Maker",
            "part_number": "Part",
            "serial_number": "Serial number",
        },
        PanelTarget(
            f"sum by (dimm, node, manufacturer, part_number, serial_number) (steadytok_dimm_info{{{HOST}}})", ""
        ),
        sort=("Slot", False),
    )


def _build_kills_panel() -> PanelJson:
    return build_table(
        "Out-of-memory kills",
        "The last kill of each kind. memory_policy and cpuset: a node was full; memcg: a cgroup; none: the whole host.",
        FieldOptions("dateTimeFromNow"),
        {"constraint": "Constraint", "nodes": "Nodes", "victim": "Process", "cgroup": "Cgroup", "Value": "When"},
        PanelTarget(
            "1000 * max by (constraint, nodes, victim, cgroup) "
            f"(steadytok_kmsg_last_oom_kill_timestamp_seconds{{{HOST}}})",
            "",
        ),
        sort=("When", True),
    )
