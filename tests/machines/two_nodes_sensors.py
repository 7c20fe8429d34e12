"""
Sensors of the machine in two_nodes.py: frequencies, throttling, temperatures, errors, energy, kernel log.

Package p has the CPUs 20p to 20p+19; CPUs 10 apart are siblings of one core. Package 1 is the hot one: its DIMMs are
near their limit, one of them corrects errors, and its CPUs were slowed.
"""

from __future__ import annotations

CPUS = range(40)
BOOTED = 1_761_955_200  # as in two_nodes.py
KILLED = 86_400_250_000  # microseconds after boot
DIMM_MILLIDEGREES = {
    "3-0050": 52_250,
    "3-0051": 53_000,
    "3-0052": 51_750,
    "3-0053": 52_500,
    "4-0050": 79_250,
    "4-0051": 83_500,
    "4-0052": 85_750,
    "4-0053": 80_000,
}
PACKAGE_MILLIDEGREES = (61_000, 94_000)
CORRECTED = {"mc0": (0, 0, 0, 0), "mc1": (0, 2, 31, 0)}
MICROJOULES = {
    "intel-rapl:0": ("package-0", 123_456_789_012),
    "intel-rapl:0:0": ("dram", 9_876_543_210),
    "intel-rapl:1": ("package-1", 223_456_789_012),
    "intel-rapl:1:0": ("dram", 19_876_543_210),
}

_CPU = "sys/devices/system/cpu"
_KILL = (
    "oom-kill:constraint=CONSTRAINT_MEMORY_POLICY,nodemask=1,cpuset=/,mems_allowed=0-1,global_oom,"
    "task_memcg=/system.slice/vllm.service,task=python3,pid=4711,uid=1000"
)


def files() -> dict[str, str]:
    """Returns the text of each file by its path below the root; a text `-> TARGET` is a link."""
    texts = {"proc/sys/kernel/osrelease": "6.8.0-45-generic", "dev/kmsg": _format_log()}
    for cpu in CPUS:
        texts |= _make_throttle_files(cpu) | _make_policy_files(cpu)
    for package in (0, 1):
        texts |= _make_package_sensor_files(package)
    for number, device in enumerate(DIMM_MILLIDEGREES, start=2):
        texts |= _make_dimm_sensor_files(number, device)
    for controller in CORRECTED:
        texts |= _make_controller_files(controller)
    for zone in MICROJOULES:
        texts |= _make_zone_files(zone)
    return {path: text if text.startswith("-> ") else f"{text}\n" for path, text in texts.items()}


def expected_series() -> dict[str, float]:
    """Returns every series that cpufreq, thermal_throttle, hwmon, dimm, edac, powercap and kmsg must read."""
    parts = (
        _make_cpufreq_series(),
        _make_throttle_series(),
        _make_temperature_series(),
        _make_error_series(),
        _make_log_series(),
    )
    return {f"steadytok_{series}": float(value) for part in parts for series, value in part.items()}


def frequency_khz(cpu: int) -> int:
    """Returns a different frequency for each CPU; package 1 runs slower."""
    return (3_500_000 if cpu < 20 else 2_100_000) + cpu


def throttle_counts(cpu: int) -> tuple[int, int]:
    """Returns events and milliseconds of a CPU's core; siblings differ, and package 0 had none."""
    return (0, 0) if cpu < 20 else (100 + cpu, 10_000 + 250 * cpu)


def _make_policy_files(cpu: int) -> dict[str, str]:
    settings = {
        "scaling_cur_freq": frequency_khz(cpu),
        "cpuinfo_max_freq": 3_800_000,
        "scaling_max_freq": 3_800_000,
        "scaling_driver": "intel_pstate",
        "scaling_governor": "performance" if cpu < 20 else "powersave",
        "energy_performance_preference": "performance" if cpu < 20 else "balance_performance",
        "related_cpus": cpu,
    }
    return {f"{_CPU}/cpufreq/policy{cpu}/{file}": str(value) for file, value in settings.items()}


def _make_throttle_files(cpu: int) -> dict[str, str]:
    package, core = divmod(cpu, 20)
    events, milliseconds = throttle_counts(cpu)
    files = {
        "topology/physical_package_id": package,
        "topology/core_id": core % 10,
        "thermal_throttle/core_throttle_count": events,
        "thermal_throttle/core_throttle_total_time_ms": milliseconds,
        "thermal_throttle/package_throttle_count": 250 * package,
        "thermal_throttle/package_throttle_total_time_ms": 41_500 * package,
    }
    return {f"{_CPU}/cpu{cpu}/{file}": str(value) for file, value in files.items()}


def _make_package_sensor_files(package: int) -> dict[str, str]:
    folder = f"sys/class/hwmon/hwmon{package}"
    return {
        f"{folder}/name": "coretemp",
        f"{folder}/device": f"-> ../../../devices/platform/coretemp.{package}",
        f"{folder}/temp1_label": f"Package id {package}",
        f"{folder}/temp1_input": str(PACKAGE_MILLIDEGREES[package]),
        f"{folder}/temp1_max": "95000",
        f"{folder}/temp1_crit": "105000",
        f"{folder}/temp2_label": "Core 0",
        f"{folder}/temp2_input": "60000",
    }


def _make_dimm_sensor_files(number: int, device: str) -> dict[str, str]:
    folder = f"sys/class/hwmon/hwmon{number}"
    return {
        f"{folder}/name": "spd5118",
        f"{folder}/device": f"-> ../../../{device}",
        f"{folder}/temp1_input": str(DIMM_MILLIDEGREES[device]),
        f"{folder}/temp1_max": "55000",
        f"{folder}/temp1_crit": "85000",
    }


def _make_controller_files(controller: str) -> dict[str, str]:
    folder = f"sys/devices/system/edac/mc/{controller}"
    files = {f"{folder}/ce_count": str(sum(CORRECTED[controller])), f"{folder}/ue_count": "0"}
    for slot, count in enumerate(CORRECTED[controller]):
        files |= {
            f"{folder}/dimm{slot}/dimm_ce_count": str(count),
            f"{folder}/dimm{slot}/dimm_ue_count": "0",
            f"{folder}/dimm{slot}/dimm_label": _format_label(controller, slot),
        }
    return files


def _format_label(controller: str, slot: int) -> str:
    return f"CPU_SrcID#{controller[2:]}_MC#0_Chan#{slot}_DIMM#0"


def _make_zone_files(zone: str) -> dict[str, str]:
    name, energy = MICROJOULES[zone]
    folder = f"sys/class/powercap/{zone}"
    return {f"{folder}/name": name, f"{folder}/energy_uj": str(energy), f"{folder}/max_energy_range_uj": "262143328850"}


def _format_log() -> str:
    return "\n".join(
        (
            "5,0,0,-;Linux version 6.8.0-45-generic",
            "4,900,80000000000,-;CPU21: Core temperature is above threshold, cpu clock is throttled (total events = 1)",
            f"6,901,{KILLED},-;{_KILL}",
            f"3,902,{KILLED + 9},-;Out of memory: Killed process 4711 (python3) total-vm:68719476kB",
        )
    )


def _make_cpufreq_series() -> dict[str, float]:
    values: dict[str, float] = {}
    for cpu in CPUS:
        labels = f'{{node="{cpu // 20}",policy="{cpu}"}}'
        values[f"cpufreq_frequency_hertz{labels}"] = frequency_khz(cpu) * 1e3
        values[f"cpufreq_frequency_max_hertz{labels}"] = 3.8e9
        values[f"cpufreq_frequency_limit_hertz{labels}"] = 3.8e9
    for governor, preference in (("performance", "performance"), ("powersave", "balance_performance")):
        state = f'driver="intel_pstate",energy_performance_preference="{preference}",governor="{governor}"'
        values[f"cpufreq_policies{{{state}}}"] = 20
    return values


def _make_throttle_series() -> dict[str, float]:
    values: dict[str, float] = {}
    for package in (0, 1):
        for core in range(10):
            events, milliseconds = throttle_counts(20 * package + core + 10)
            labels = f'{{core="{core}",package="{package}"}}'
            values[f"thermal_throttle_core_events_total{labels}"] = events
            values[f"thermal_throttle_core_seconds_total{labels}"] = milliseconds / 1000
        values[f'thermal_throttle_package_events_total{{package="{package}"}}'] = 250 * package
        values[f'thermal_throttle_package_seconds_total{{package="{package}"}}'] = 41.5 * package
    return values


def _make_temperature_series() -> dict[str, float]:
    values: dict[str, float] = {}
    for package in (0, 1):
        sensor = f'chip="coretemp",device="coretemp.{package}",label="Package id {package}",sensor="temp1"'
        values[f"hwmon_temperature_celsius{{{sensor}}}"] = PACKAGE_MILLIDEGREES[package] / 1000
        values[f"hwmon_temperature_max_celsius{{{sensor}}}"] = 95
        values[f"hwmon_temperature_critical_celsius{{{sensor}}}"] = 105
    for device, millidegrees in DIMM_MILLIDEGREES.items():
        sensor = f'chip="spd5118",device="{device}",sensor="temp1"'
        dimm = f'dimm="{device}",source="hwmon"'
        values[f"hwmon_temperature_celsius{{{sensor}}}"] = millidegrees / 1000
        values[f"hwmon_temperature_max_celsius{{{sensor}}}"] = 55
        values[f"hwmon_temperature_critical_celsius{{{sensor}}}"] = 85
        values[f"dimm_temperature_celsius{{{dimm}}}"] = millidegrees / 1000
        values[f"dimm_limit_celsius{{{dimm}}}"] = 85
        values[f"dimm_headroom_celsius{{{dimm}}}"] = 85 - millidegrees / 1000
    return values


def _make_error_series() -> dict[str, float]:
    values: dict[str, float] = {}
    for controller, counts in CORRECTED.items():
        values[f'edac_correctable_errors_total{{controller="{controller}"}}'] = sum(counts)
        values[f'edac_uncorrectable_errors_total{{controller="{controller}"}}'] = 0
        for slot, count in enumerate(counts):
            labels = f'{{controller="{controller}",dimm="dimm{slot}",label="{_format_label(controller, slot)}"}}'
            values[f"edac_dimm_correctable_errors_total{labels}"] = count
            values[f"edac_dimm_uncorrectable_errors_total{labels}"] = 0
            module = f'dimm="{_format_label(controller, slot)}",node="{controller[2:]}"'
            values[f'dimm_correctable_errors_total{{{module},source="edac"}}'] = count
            values[f'dimm_uncorrectable_errors_total{{{module},source="edac"}}'] = 0
            values[f'dimm_sensor_info{{{module},sensor="{controller}/dimm{slot}",source="edac"}}'] = 1
    for zone, (name, energy) in MICROJOULES.items():
        values[f'powercap_energy_joules_total{{name="{name}",zone="{zone}"}}'] = energy / 1e6
    return values


def _make_log_series() -> dict[str, float]:
    kill = 'cgroup="/system.slice/vllm.service",constraint="memory_policy",nodes="1",victim="python3"'
    kills = {"none": 0, "cpuset": 0, "memory_policy": 1, "memcg": 0}
    return {
        **{f'kmsg_oom_kills_total{{constraint="{constraint}"}}': count for constraint, count in kills.items()},
        f"kmsg_last_oom_kill_timestamp_seconds{{{kill}}}": BOOTED + KILLED / 1e6,
        "kmsg_throttle_messages_total": 1,
        "kmsg_machine_checks_total": 0,
    }
