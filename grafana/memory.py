"""*Where is the memory?*: of the host, of each NUMA node, of each engine and its cgroup, and what has moved."""

from __future__ import annotations

from typing import Any

from grafana.dashboard import ENGINE, INSTANCE, Row, alerts_and_remedies, dashboard
from grafana.healthy import MEMORY_LEFT
from grafana.panels import HOST, Look, Panel, Query, Right, Steps, number, series, table

ENGINES = f'{HOST},engine=~"$engine"'
SHARE = Look("percentunit", least=0, most=1, decimals=1)


def build() -> dict[str, Any]:
    """The dashboard."""
    return dashboard(
        "steadytok-memory",
        "Where is the memory?",
        "Who holds the memory of the host, on which NUMA node it is, what was asked for, and what is left.",
        [
            Row("The host", [*_glance(), _host(), _swap()]),
            Row("NUMA nodes", [_available(), _nodes(), *_allocations()]),
            Row("Engines", _engines()),
            Row("Limits", _limits()),
            Row("Modules", [_modules(), _kills()]),
        ],
        variables=[INSTANCE, ENGINE],
        annotations=alerts_and_remedies(HOST),
    )


def _bytes(field: str) -> str:
    return f"steadytok_meminfo_{field}_bytes{{{HOST}}}"


def _glance() -> list[Panel]:
    total = _bytes("mem_total")
    asked = (
        ("Installed", "Memory that the kernel can use.", total, "bytes", Steps("text")),
        ("Left", "What could be had without swapping, of all.", f"100 * {_bytes('mem_available')} / {total}",
         "percent", MEMORY_LEFT),
        ("Anonymous", "Memory that only swap could take: weights that were loaded, KV caches.",
         f"{_bytes('active_anon')} + {_bytes('inactive_anon')}", "bytes", Steps("text")),
        ("Files", "Page cache, mapped weights included.", f"{_bytes('active_file')} + {_bytes('inactive_file')}",
         "bytes", Steps("text")),
        ("Mapped files", "Page cache that processes map and read as memory: mmap'ed weights.", _bytes("mapped"),
         "bytes", Steps("text")),
        ("Huge pages", "Reserved for huge pages, used or not.",
         f'steadytok_meminfo_huge_pages{{{HOST},state="total"}} * on (instance) {_bytes("hugepagesize")}',
         "bytes", Steps("text")),
    )  # fmt: skip
    return [
        number(title, description, Look(unit, steps, decimals=1), Query(expr, title))
        for title, description, expr, unit, steps in asked
    ]


def _host() -> Panel:
    unmapped = f"{_bytes('active_file')} + {_bytes('inactive_file')} - {_bytes('mapped')}"
    return series(
        "What the host's memory holds",
        "Anonymous memory, files that are mapped and files that are only cached, the kernel's own, and nothing.",
        Look("bytes", least=0),
        Query(f"{_bytes('active_anon')} + {_bytes('inactive_anon')}", "anonymous"),
        Query(_bytes("mapped"), "mapped files"),
        Query(f"clamp_min({unmapped}, 0)", "cached files"),
        Query(f"{_bytes('sreclaimable')} + {_bytes('sunreclaim')}", "kernel"),
        Query(_bytes("mem_free"), "free"),
        stacked=True,
    )


def _swap() -> Panel:
    def per_second(name: str) -> str:
        return f"rate(steadytok_vmstat_{name}_total{{{HOST}}}[$__rate_interval])"

    return series(
        "Reclaim",
        "Pages per second: swapped, read again after an eviction, and scanned by allocations that had to wait.",
        Look("ops", least=0),
        Query(per_second("pswpin"), "swapped in"),
        Query(per_second("pswpout"), "swapped out"),
        Query(per_second("workingset_refault_file"), "files read again"),
        Query(per_second("pgscan_direct"), "scanned by who waits"),
    )


def _available() -> Panel:
    return series(
        "What is left on each node",
        "Free memory, cache that can be given up and reclaimable slab, above the low watermark. An engine bound "
        "to a node is killed when this ends, whatever the other nodes have.",
        Look("percent", Steps("red", ((4, "orange"), (10, "green")), area=True), least=0, most=100),
        Query(
            f"100 * steadytok_node_meminfo_available_bytes{{{HOST}}}"
            f" / steadytok_node_meminfo_mem_total_bytes{{{HOST}}}",
            "node {{node}}",
        ),
    )


def _nodes() -> Panel:
    def of(field: str) -> Query:
        return Query(f"sum by (node) (steadytok_node_meminfo_{field}_bytes{{{HOST}}})", "")

    anonymous = (
        f"sum by (node) (steadytok_node_meminfo_active_anon_bytes{{{HOST}}} + "
        f"steadytok_node_meminfo_inactive_anon_bytes{{{HOST}}})"
    )
    return table(
        "Nodes",
        "Free alone says little: it is near 0 wherever files are cached.",
        Look("bytes", decimals=1),
        {
            "node": "Node",
            "Value #A": "Memory",
            "Value #B": "Left",
            "Value #C": "Free",
            "Value #D": "Anonymous",
            "Value #E": "Mapped",
            "Value #F": "CPUs",
        },
        of("mem_total"),
        of("available"),
        of("mem_free"),
        Query(anonymous, ""),
        of("mapped"),
        Query(f"sum by (node) (steadytok_topology_node_cpus{{{HOST}}})", ""),
        units={"CPUs": Look("short", decimals=0)},
        sort=("Node", False),
    )


def _allocations() -> list[Panel]:
    def per_second(name: str) -> str:
        return f"rate(steadytok_numastat_{name}_total{{{HOST}}}[$__rate_interval])"

    return [
        series(
            "Allocations that went elsewhere",
            "Per second, by the node that was wanted and was full. Counts allocations of any size, not pages.",
            Look("ops", least=0),
            Query(f"sum by (node) ({per_second('numa_foreign')})", "wanted node {{node}}"),
        ),
        series(
            "Pages that the kernel moved",
            "Per second: NUMA balancing, and all causes together.",
            Look("ops", least=0),
            Query(f"rate(steadytok_vmstat_numa_pages_migrated_total{{{HOST}}}[$__rate_interval])", "NUMA balancing"),
            Query(f"rate(steadytok_vmstat_pgmigrate_success_total{{{HOST}}}[$__rate_interval])", "all causes"),
        ),
    ]


def _engines() -> list[Panel]:
    return [
        series(
            "What engines hold",
            "Memory in RAM of each process, by kind. file is mmap'ed weights; anon is loaded weights and the KV cache.",
            Look("bytes", least=0),
            Query(f"steadytok_process_memory_bytes{{{ENGINES}}} > 0", "{{engine}} rank {{rank}}: {{kind}}"),
            stacked=True,
        ),
        series(
            "On which node it is",
            "Share of each process's resident pages by node, from a sample of them.",
            Look("percentunit", least=0, most=1),
            Query(f"steadytok_process_node_share_ratio{{{ENGINES}}}", "{{engine}} rank {{rank}}: node {{node}}"),
        ),
        series(
            "Local, and moved",
            "Share that is on the nodes where the threads run, and share that is not where it was while the engine was "
            "fast.",
            Look("percentunit", least=0, most=1),
            Query(f"steadytok_process_local_ratio{{{ENGINES}}}", "{{engine}} rank {{rank}}: local"),
            Query(f"steadytok_process_placement_drift{{{ENGINES}}}", "{{engine}} rank {{rank}}: moved"),
        ),
        series(
            "Threads by node",
            "Where each engine's threads ran last.",
            Look("short", least=0),
            Query(f"sum by (engine, node) (steadytok_process_threads{{{ENGINES}}})", "{{engine}}: node {{node}}"),
        ),
        table(
            "What was asked for",
            "Options, variables, numactl and cpusets that ask for a placement. What does not match the shares above "
            "has not worked (BindingIneffective).",
            Look("short"),
            {
                "engine": "Engine",
                "rank": "Rank",
                "source": "Asked by",
                "policy": "Policy",
                "nodes": "Nodes",
                "cpus": "CPUs",
            },
            Query(
                f"sum by (engine, rank, source, policy, nodes, cpus) (steadytok_process_asked_info{{{ENGINES}}})", ""
            ),
            sort=("Engine", False),
        ),
        table(
            "Processes",
            "Who they are; for steadytok placement and numastat -p.",
            Look("short"),
            {"engine": "Engine", "rank": "Rank", "kind": "Kind", "command": "Command", "pid": "PID"},
            Query(f"sum by (engine, rank, kind, command, pid) (steadytok_process_info{{{ENGINES}}})", ""),
            sort=("Engine", False),
        ),
    ]


def _limits() -> list[Panel]:
    return [
        series(
            "Memory of the limiting cgroup",
            "Of all cgroups above a process the one with the smallest limit. Above the dashed line the kernel kills.",
            Look("bytes", least=0),
            Query(f"max by (engine) (steadytok_process_cgroup_current_bytes{{{ENGINES}}})", "{{engine}}"),
            Query(f"min by (engine) (steadytok_process_cgroup_max_bytes{{{ENGINES}}})", "{{engine}} limit"),
            dashed="limit$",
        ),
        series(
            "Left below every limit",
            "What a process can still take, with cache that can be given back. Right: how often the limit was met.",
            Look("bytes", least=0),
            Query(f"min by (engine) (steadytok_process_cgroup_available_bytes{{{ENGINES}}})", "{{engine}}"),
            Query(
                "max by (engine, event) (increase(steadytok_process_cgroup_memory_events_total"
                f'{{{ENGINES},event=~"max|oom|oom_kill"}}[$__rate_interval]))',
                "{{engine}} met {{event}}",
            ),
            right=Right(" met ", "short"),
        ),
    ]


def _modules() -> Panel:
    return table(
        "Memory modules",
        "What the firmware says is in each slot.",
        Look("short"),
        {
            "dimm": "Slot",
            "node": "Node",
            "manufacturer": "Maker",
            "part_number": "Part",
            "serial_number": "Serial number",
        },
        Query(f"sum by (dimm, node, manufacturer, part_number, serial_number) (steadytok_dimm_info{{{HOST}}})", ""),
        sort=("Slot", False),
    )


def _kills() -> Panel:
    return table(
        "Killed for want of memory",
        "The last of each kind. memory_policy and cpuset: a node was full; memcg: a cgroup; none: the whole host.",
        Look("dateTimeFromNow"),
        {"constraint": "Of", "nodes": "Nodes", "victim": "Process", "cgroup": "Cgroup", "Value": "When"},
        Query(
            "1000 * max by (constraint, nodes, victim, cgroup) "
            f"(steadytok_kmsg_last_oom_kill_timestamp_seconds{{{HOST}}})",
            "",
        ),
        sort=("When", True),
    )
