"""What each built-in rule is to say without one of its selectors, and on hosts that lack several of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple


class Word(Enum):
    """What a rule says in the worlds of its unit tests that had the series and have lost it."""

    SPEAKS = "speaks in all of them"
    EITHER = "speaks in those that have other evidence"
    SILENT = "speaks in none of them"


class Expectation(NamedTuple):
    """The word with its reason; `speaks_of_healthy` where the loss makes a healthy world look sick."""

    word: Word
    reason: str
    speaks_of_healthy: bool = False


_EVIDENCE = Expectation(Word.SILENT, "it is what the alert is about")
_MEASURE = Expectation(Word.SILENT, "without it there is nothing to compare the evidence with")
_CAUSE = Expectation(Word.SILENT, "the evidence alone has harmless causes as well")
_UNAVAILABLE = "foreign|key_required|bad_request|not_served|redirected|compressed|untrusted|error"
_CONFIGURED = Expectation(
    Word.SILENT, "only engines of the configuration are anybody's service; the agent always knows"
)
_SAMPLE = Expectation(Word.SILENT, "the shares come from a sample, whose size says what they are worth")
_NOT_PACED = Expectation(Word.SPEAKS, "who has no duty is not paced; the agent and the engine know theirs", True)
_VICTIM = Expectation(Word.SPEAKS, "the count suffices, the newest victim is an ornament of the text")
_OTHER_COUNT = Expectation(Word.SPEAKS, "the worst of cores and packages counts, and the other is not what is hot here")
_NOT_TIMED = Expectation(Word.SPEAKS, "where seconds are counted another rule judges; without them this one does")
_BUSY = Expectation(Word.SILENT, "an idle CPU has any frequency it likes")

EXPECTED: Mapping[str, Mapping[str, Expectation]] = {
    "CollectorFailing": {"collector_success": _EVIDENCE},
    "ReadingsLost": {'collector_missing_series{collector!="engine"}': _EVIDENCE},
    "AgentWatchdog": {},
    "SensorLost warning": {
        "hwmon_temperature_celsius": _EVIDENCE,
        "collector_success": Expectation(Word.SILENT, "then the agent is silent, and not one sensor"),
        'collector_success{collector="hwmon"}': Expectation(
            Word.EITHER, "a host that reports any collector is heard; one that reports none is silent as a whole"
        ),
    },
    "SensorLost dimm warning": {
        'dimm_temperature_celsius{source!="hwmon"}': _EVIDENCE,
        "collector_success": Expectation(Word.SILENT, "then the agent is silent, and not one sensor"),
    },
    "ThroughputSagging": {
        "engine_tokens_per_second": _EVIDENCE,
        "engine_baseline_tokens_per_second": _MEASURE,
        "pace_duty": _NOT_PACED,
        "engine_duty": _NOT_PACED,
    },
    "EngineDown": {"engine_up": _EVIDENCE, "engine_configured": _CONFIGURED},
    "EngineMetricsUnavailable warning": {
        f'engine_answer_info{{answer=~"{_UNAVAILABLE}"}}': _EVIDENCE,
        "engine_configured": _CONFIGURED,
    },
    "EngineMetricsUnavailable info": {
        'engine_answer_info{answer=~"loading|empty"}': _EVIDENCE,
        "engine_configured": _CONFIGURED,
    },
    "EngineCold": {
        "engine_generated_tokens_total": _EVIDENCE,
        "engine_up": Expectation(Word.SILENT, "an engine that is down is not cold"),
        "engine_configured": _CONFIGURED,
    },
    "CorrectedErrors": {
        "edac_dimm_correctable_errors_total": Expectation(Word.SPEAKS, "the controller counts the same errors"),
        "edac_correctable_errors_total": Expectation(Word.EITHER, "drivers that know the DIMM count by DIMM as well"),
    },
    "UncorrectedErrors": {
        "edac_dimm_uncorrectable_errors_total": Expectation(Word.SPEAKS, "the controller counts the same errors"),
        "edac_uncorrectable_errors_total": Expectation(Word.EITHER, "drivers that know the DIMM count by DIMM as well"),
    },
    "GovernorNotPerformance": {
        'cpufreq_policies{energy_performance_preference!="performance",governor!="performance"}': _EVIDENCE
    },
    "TransparentHugePagesNever": {
        'topology_transparent_hugepage_info{enabled="never"}': _EVIDENCE,
        'meminfo_huge_pages{state="total"}': Expectation(
            Word.SPEAKS, "a kernel without hugetlbfs has none to reserve, and /proc/meminfo is read everywhere", True
        ),
    },
    "TransparentHugePagesStall": {
        "vmstat_compact_stall_total": _EVIDENCE,
        'topology_transparent_hugepage_info{defrag="always",enabled!="never"}': _CAUSE,
    },
    "NumaBalancingEnabled": {
        'topology_sysctl{sysctl="kernel.numa_balancing"}': _EVIDENCE,
        "topology_nodes": Expectation(Word.SILENT, "on one node balancing does nothing"),
    },
    "MemoryExhaustionPredicted": {
        "meminfo_mem_available_bytes": _EVIDENCE,
        "meminfo_mem_total_bytes": Expectation(Word.SILENT, "a load levels off above 30 %; both are in /proc/meminfo"),
    },
    "MemoryPressure": {'pressure_waiting_seconds_total{resource="memory"}': _EVIDENCE},
    "WeightsEvicted": {
        "vmstat_workingset_refault_file_total": _EVIDENCE,
        "vmstat_workingset_refault_total": _EVIDENCE,
        "vmstat_pgmajfault_total": Expectation(Word.SILENT, "refaults that nobody waits for cost nothing"),
        "meminfo_cached_bytes": Expectation(Word.SILENT, "a model that is read in again refaults too, once"),
    },
    "steadytok:oom_kills:increase15m": {
        "kmsg_oom_kills_total": _EVIDENCE,
        "kmsg_last_oom_kill_timestamp_seconds": _VICTIM,
    },
    "OomKill none critical": {
        "kmsg_oom_kills_total": _EVIDENCE,
        "kmsg_last_oom_kill_timestamp_seconds": _VICTIM,
    },
    "OomKill any critical": {
        "kmsg_oom_kills_total": _EVIDENCE,
        "kmsg_last_oom_kill_timestamp_seconds": _VICTIM,
    },
    "OomKill memcg critical": {
        "kmsg_oom_kills_total": _EVIDENCE,
        "kmsg_last_oom_kill_timestamp_seconds": _VICTIM,
    },
    "OomKill unknown critical": {
        "vmstat_oom_kill_total": _EVIDENCE,
        "kmsg_oom_kills_total": Expectation(Word.SPEAKS, "it is for hosts whose kernel log cannot be read"),
        "kmsg_last_oom_kill_timestamp_seconds": _VICTIM,
    },
    "NumaAllocationDrift allocations warning": {
        "numastat_numa_foreign_total": _EVIDENCE,
        "numastat_numa_hit_total": _MEASURE,
        "meminfo_cached_bytes": Expectation(
            Word.SILENT, "a model that is read in spills into the next node as it must"
        ),
    },
    "NumaAllocationDrift migrations warning": {"vmstat_numa_pages_migrated_total": _EVIDENCE},
    "steadytok:node_meminfo_available:percent": {
        "node_meminfo_available_bytes": _EVIDENCE,
        "node_meminfo_mem_total_bytes": _MEASURE,
        "topology_node_cpus": Expectation(Word.SPEAKS, "a node counts as one with processors until it is known"),
    },
    "NodeNearlyFull": {
        "node_meminfo_available_bytes": _EVIDENCE,
        "node_meminfo_mem_total_bytes": _MEASURE,
        "topology_node_cpus": Expectation(
            Word.SPEAKS,
            "a full node kills its engine, a memory-only node is rare, and both share a folder in /sys",
            True,
        ),
    },
    "steadytok:process_placement_drift:percent": {"process_placement_drift": _EVIDENCE},
    "steadytok:engine_speed_of_baseline:percent": {
        "engine_tokens_per_second": _EVIDENCE,
        "engine_baseline_tokens_per_second": _MEASURE,
        "pace_duty": _NOT_PACED._replace(speaks_of_healthy=False),
        "engine_duty": _NOT_PACED._replace(speaks_of_healthy=False),
    },
    "steadytok:resctrl_remote_traffic:percent": {
        "resctrl_mbm_remote_bytes_total": _EVIDENCE,
        "resctrl_mbm_bytes_total": _MEASURE,
    },
    "PlacementDrift": {
        "process_placement_drift": _EVIDENCE,
        "engine_tokens_per_second": _CAUSE,
        "engine_baseline_tokens_per_second": _CAUSE,
        "pace_duty": _NOT_PACED,
        "engine_duty": _NOT_PACED,
        "resctrl_mbm_remote_bytes_total": _CAUSE,
        "resctrl_mbm_bytes_total": _CAUSE,
    },
    "AllRanksOnOneNode": {
        "process_node_share_ratio": _EVIDENCE,
        "process_info": _MEASURE,
        "topology_node_cpus": Expectation(Word.SILENT, "on a host with one node all ranks are there"),
        'process_asked_node{policy=~"bind|preferred|cpus"}': Expectation(
            Word.SPEAKS, "nobody asked where there is no such series; command lines are readable by all", True
        ),
    },
    "steadytok:process_anon_on_asked_nodes:percent": {
        'process_asked_node{policy="bind"}': _MEASURE,
        'process_kind_share_ratio{kind="anon"}': _EVIDENCE,
        'process_sampled_pages{kind="anon"}': _SAMPLE,
    },
    "BindingIneffective bound_memory warning": {
        'process_asked_node{policy="bind"}': _MEASURE,
        'process_kind_share_ratio{kind="anon"}': _EVIDENCE,
        'process_sampled_pages{kind="anon"}': _SAMPLE,
    },
    "BindingIneffective bound_files warning": {
        'process_asked_node{policy="bind"}': _MEASURE,
        'process_kind_share_ratio{kind="file"}': _EVIDENCE,
        'process_memory_bytes{kind="file"}': Expectation(Word.SILENT, "libraries lie where others loaded them"),
        'process_sampled_pages{kind="file"}': _SAMPLE,
    },
    "BindingIneffective bound_threads warning": {
        'process_asked_node{policy="bind"}': _MEASURE,
        "process_local_ratio": _EVIDENCE,
        "process_node_share_ratio": Expectation(Word.SILENT, "memory that is elsewhere looks like threads elsewhere"),
    },
    "BindingIneffective spread_memory warning": {
        'process_asked_node{policy=~"interleave|replicate|shard"}': _MEASURE,
        'process_kind_share_ratio{kind="anon"}': _EVIDENCE,
        'process_sampled_pages{kind="anon"}': _SAMPLE,
    },
    "BindingIneffective spread_files warning": {
        'process_asked_node{policy=~"interleave|distribute|replicate|shard"}': _MEASURE,
        'process_kind_share_ratio{kind="file"}': _EVIDENCE,
        'process_memory_bytes{kind="file"}': Expectation(Word.SILENT, "libraries lie where others loaded them"),
        'process_sampled_pages{kind="file"}': _SAMPLE,
    },
    "CgroupMemoryNearMax": {"process_cgroup_available_ratio": _EVIDENCE},
    "RemedyRunning": {"remedy_running": _EVIDENCE},
    "RemedyFailed": {"remedy_failed": _EVIDENCE},
    "RemedyGaveUp critical": {"remedy_gave_up": _EVIDENCE},
    "RemedyGaveUp * critical": {
        "remedies_halted": _EVIDENCE,
        "remedies_enforcing": Expectation(Word.SILENT, "while remedies only observe nothing is lost"),
    },
    "DimmHot warning": {"dimm_headroom_celsius": _EVIDENCE},
    "DimmHot critical": {"dimm_headroom_celsius": _EVIDENCE},
    "NeedsAirflow": {
        "pace_predicted_duty": _EVIDENCE,
        "pace_pays": _CAUSE,
        "dimm_headroom_celsius": Expectation(Word.SILENT, "nothing may be hot"),
    },
    "CpuThermalThrottling throttling warning": {
        "thermal_throttle_package_seconds_total": _EVIDENCE,
        "thermal_throttle_core_seconds_total": Expectation(Word.EITHER, "the package may be the one that is hot"),
        "thermal_throttle_package_events_total": Expectation(Word.SILENT, "no kernel has seconds without counts"),
        "thermal_throttle_core_events_total": Expectation(Word.EITHER, "the package may be the one that is hot"),
    },
    "steadytok:cpufreq_busy_frequency_hertz:upper_quartile": {
        "cpufreq_frequency_hertz": _EVIDENCE,
        'stat_cpu_seconds_total{mode=~"idle|iowait"}': _BUSY,
        'stat_cpu_seconds_total{mode!~"guest|guest_nice"}': _BUSY,
        "thermal_throttle_core_seconds_total": _NOT_TIMED,
        "thermal_throttle_package_seconds_total": _NOT_TIMED,
    },
    "CpuThermalThrottling frequency warning": {
        "cpufreq_frequency_hertz": _EVIDENCE,
        'stat_cpu_seconds_total{mode=~"idle|iowait"}': _BUSY,
        'stat_cpu_seconds_total{mode!~"guest|guest_nice"}': _BUSY,
        "thermal_throttle_core_seconds_total": _NOT_TIMED,
        "thermal_throttle_package_seconds_total": _NOT_TIMED,
        "thermal_throttle_package_events_total": Expectation(
            Word.SILENT, "the cores count none; where nothing counts, the frequency decides, as on AMD", True
        ),
        "thermal_throttle_core_events_total": _OTHER_COUNT,
    },
    "CpuThermalThrottling events warning": {
        "thermal_throttle_package_events_total": _EVIDENCE,
        "thermal_throttle_core_events_total": _OTHER_COUNT,
        "thermal_throttle_core_seconds_total": _NOT_TIMED,
        "thermal_throttle_package_seconds_total": _NOT_TIMED,
        "cpufreq_frequency_hertz": Expectation(Word.SPEAKS, "it is for hosts without a cpufreq driver"),
        'stat_cpu_seconds_total{mode=~"idle|iowait"}': Expectation(Word.SPEAKS, "as above, by way of the record"),
        'stat_cpu_seconds_total{mode!~"guest|guest_nice"}': Expectation(Word.SPEAKS, "as above, by way of the record"),
    },
}
"""By rule, and by selector without the prefix `steadytok_`."""


class RealHost(NamedTuple):
    """The beginnings of the names of metrics that a kind of host lacks, and the rules that are silent there."""

    lacks: tuple[str, ...]
    silent: frozenset[str]


def _host(lacks: str, *silent: str) -> RealHost:
    return RealHost(tuple(lacks.split()), frozenset(silent))


_BINDINGS = tuple(key for key in EXPECTED if key.startswith("BindingIneffective"))
REAL_HOSTS: Mapping[str, RealHost] = {
    "Intel before Linux 5.5: counts without seconds": _host(
        "thermal_throttle_core_seconds thermal_throttle_package_seconds", "CpuThermalThrottling throttling warning"
    ),
    "AMD, Arm, virtual machines: no thermal_throttle": _host(
        "thermal_throttle_", "CpuThermalThrottling throttling warning", "CpuThermalThrottling events warning"
    ),
    "Intel without package sensors": _host("thermal_throttle_package_", "CpuThermalThrottling events warning"),
    "virtual machine without a cpufreq driver": _host(
        "cpufreq_",
        "GovernorNotPerformance",
        "steadytok:cpufreq_busy_frequency_hertz:upper_quartile",
        "CpuThermalThrottling frequency warning",
    ),
    "RHEL, booted without psi=1": _host("pressure_", "MemoryPressure"),
    "Linux from 5.9 on: refaults by kind": _host("vmstat_workingset_refault_total"),
    "Linux before 5.9: refaults of files alone": _host("vmstat_workingset_refault_file vmstat_workingset_refault_anon"),
    "Linux before 4.13: no oom_kill in vmstat": _host("vmstat_oom_kill", "OomKill unknown critical"),
    "without CAP_SYSLOG": _host(
        "kmsg_",
        "steadytok:oom_kills:increase15m",
        "OomKill none critical",
        "OomKill any critical",
        "OomKill memcg critical",
    ),
    "without CAP_SYS_PTRACE": _host(
        "process_node_share process_kind_share process_local_ratio process_sampled_pages process_placement_drift",
        "steadytok:process_placement_drift:percent",
        "steadytok:process_anon_on_asked_nodes:percent",
        "PlacementDrift",
        "AllRanksOnOneNode",
        *_BINDINGS,
    ),
    "vm.numa_stat=0, or one node": _host("numastat_", "NumaAllocationDrift allocations warning"),
    "kernel without CONFIG_NUMA_BALANCING": _host(
        "vmstat_numa_ topology_sysctl", "NumaAllocationDrift migrations warning", "NumaBalancingEnabled"
    ),
    "kernel without transparent huge pages": _host(
        "topology_transparent_hugepage vmstat_thp_", "TransparentHugePagesNever", "TransparentHugePagesStall"
    ),
    "kernel without hugetlbfs": _host("meminfo_huge_pages"),
    "board without ECC": _host("edac_", "CorrectedErrors", "UncorrectedErrors"),
    "EDAC driver that knows no DIMMs": _host("edac_dimm_"),
    "processor without resctrl": _host("resctrl_", "steadytok:resctrl_remote_traffic:percent"),
    "board without DIMM sensors": _host(
        "dimm_ hwmon_",
        "DimmHot warning",
        "DimmHot critical",
        "NeedsAirflow",
        "SensorLost warning",
        "SensorLost dimm warning",
    ),
    "nobody paces": _host("pace_ engine_duty", "NeedsAirflow"),
    "cgroup v1, or none with a limit": _host("process_cgroup_", "CgroupMemoryNearMax"),
}
