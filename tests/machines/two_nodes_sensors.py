"""
The sensors of the machine in two_nodes.py: frequencies, throttling, DIMM temperatures, errors, energy, kernel log.

Package p has the CPUs 20p to 20p+19; CPUs 10 apart are siblings of one core. Package 1 is the hot one: its DIMMs are
near their limit, one of them corrects errors, and its CPUs were slowed.
"""

from __future__ import annotations

CPUS = range(40)
BOOTED = 1_761_955_200  # as in two_nodes.py
KILLED = 86_400_250_000  # microseconds after the boot
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
    """The text of each file by its path below the root; a text `-> TARGET` is a link."""
    found = {"proc/sys/kernel/osrelease": "6.8.0-45-generic", "dev/kmsg": _log()}
    for cpu in CPUS:
        found |= _throttle(cpu) | _policy(cpu)
    for package in (0, 1):
        found |= _package_sensor(package)
    for number, device in enumerate(DIMM_MILLIDEGREES, start=2):
        found |= _dimm_sensor(number, device)
    for controller in CORRECTED:
        found |= _controller(controller)
    for zone in MICROJOULES:
        found |= _zone(zone)
    return {path: text if text.startswith("-> ") else f"{text}\n" for path, text in found.items()}


def expected() -> dict[str, float]:
    """Every series that cpufreq, thermal_throttle, hwmon, dimm, edac, powercap and kmsg must read, and no other."""
    parts = (_expected_cpufreq(), _expected_throttle(), _expected_temperatures(), _expected_errors(), _expected_log())
    return {f"steadytok_{series}": float(value) for part in parts for series, value in part.items()}


def kilohertz(cpu: int) -> int:
    """Each CPU its own frequency; package 1 runs slower."""
    return (3_500_000 if cpu < 20 else 2_100_000) + cpu


def throttled(cpu: int) -> tuple[int, int]:
    """Events and milliseconds of a CPU's core; siblings differ, and package 0 had none."""
    return (0, 0) if cpu < 20 else (100 + cpu, 10_000 + 250 * cpu)


def _policy(cpu: int) -> dict[str, str]:
    settings = {
        "scaling_cur_freq": kilohertz(cpu),
        "cpuinfo_max_freq": 3_800_000,
        "scaling_max_freq": 3_800_000,
        "scaling_driver": "intel_pstate",
        "scaling_governor": "performance" if cpu < 20 else "powersave",
        "energy_performance_preference": "performance" if cpu < 20 else "balance_performance",
        "related_cpus": cpu,
    }
    return {f"{_CPU}/cpufreq/policy{cpu}/{file}": str(value) for file, value in settings.items()}


def _throttle(cpu: int) -> dict[str, str]:
    package, core = divmod(cpu, 20)
    events, milliseconds = throttled(cpu)
    files = {
        "topology/physical_package_id": package,
        "topology/core_id": core % 10,
        "thermal_throttle/core_throttle_count": events,
        "thermal_throttle/core_throttle_total_time_ms": milliseconds,
        "thermal_throttle/package_throttle_count": 250 * package,
        "thermal_throttle/package_throttle_total_time_ms": 41_500 * package,
    }
    return {f"{_CPU}/cpu{cpu}/{file}": str(value) for file, value in files.items()}


def _package_sensor(package: int) -> dict[str, str]:
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


def _dimm_sensor(number: int, device: str) -> dict[str, str]:
    folder = f"sys/class/hwmon/hwmon{number}"
    return {
        f"{folder}/name": "spd5118",
        f"{folder}/device": f"-> ../../../{device}",
        f"{folder}/temp1_input": str(DIMM_MILLIDEGREES[device]),
        f"{folder}/temp1_max": "55000",
        f"{folder}/temp1_crit": "85000",
    }


def _controller(controller: str) -> dict[str, str]:
    folder = f"sys/devices/system/edac/mc/{controller}"
    found = {f"{folder}/ce_count": str(sum(CORRECTED[controller])), f"{folder}/ue_count": "0"}
    for slot, count in enumerate(CORRECTED[controller]):
        found |= {
            f"{folder}/dimm{slot}/dimm_ce_count": str(count),
            f"{folder}/dimm{slot}/dimm_ue_count": "0",
            f"{folder}/dimm{slot}/dimm_label": _label(controller, slot),
        }
    return found


def _label(controller: str, slot: int) -> str:
    return f"CPU_SrcID#{controller[2:]}_MC#0_Chan#{slot}_DIMM#0"


def _zone(zone: str) -> dict[str, str]:
    name, energy = MICROJOULES[zone]
    folder = f"sys/class/powercap/{zone}"
    return {f"{folder}/name": name, f"{folder}/energy_uj": str(energy), f"{folder}/max_energy_range_uj": "262143328850"}


def _log() -> str:
    return "\n".join(
        (
            "5,0,0,-;Linux version 6.8.0-45-generic",
            "4,900,80000000000,-;CPU21: Core temperature is above threshold, cpu clock is throttled (total events = 1)",
            f"6,901,{KILLED},-;{_KILL}",
            f"3,902,{KILLED + 9},-;Out of memory: Killed process 4711 (python3) total-vm:68719476kB",
        )
    )


def _expected_cpufreq() -> dict[str, float]:
    found: dict[str, float] = {}
    for cpu in CPUS:
        labels = f'{{node="{cpu // 20}",policy="{cpu}"}}'
        found[f"cpufreq_frequency_hertz{labels}"] = kilohertz(cpu) * 1e3
        found[f"cpufreq_frequency_max_hertz{labels}"] = 3.8e9
        found[f"cpufreq_frequency_limit_hertz{labels}"] = 3.8e9
    for governor, preference in (("performance", "performance"), ("powersave", "balance_performance")):
        state = f'driver="intel_pstate",energy_performance_preference="{preference}",governor="{governor}"'
        found[f"cpufreq_policies{{{state}}}"] = 20
    return found


def _expected_throttle() -> dict[str, float]:
    found: dict[str, float] = {}
    for package in (0, 1):
        for core in range(10):
            events, milliseconds = throttled(20 * package + core + 10)
            labels = f'{{core="{core}",package="{package}"}}'
            found[f"thermal_throttle_core_events_total{labels}"] = events
            found[f"thermal_throttle_core_seconds_total{labels}"] = milliseconds / 1000
        found[f'thermal_throttle_package_events_total{{package="{package}"}}'] = 250 * package
        found[f'thermal_throttle_package_seconds_total{{package="{package}"}}'] = 41.5 * package
    return found


def _expected_temperatures() -> dict[str, float]:
    found: dict[str, float] = {}
    for package in (0, 1):
        sensor = f'chip="coretemp",device="coretemp.{package}",label="Package id {package}",sensor="temp1"'
        found[f"hwmon_temperature_celsius{{{sensor}}}"] = PACKAGE_MILLIDEGREES[package] / 1000
        found[f"hwmon_temperature_max_celsius{{{sensor}}}"] = 95
        found[f"hwmon_temperature_critical_celsius{{{sensor}}}"] = 105
    for device, millidegrees in DIMM_MILLIDEGREES.items():
        sensor = f'chip="spd5118",device="{device}",sensor="temp1"'
        dimm = f'dimm="{device}",source="hwmon"'
        found[f"hwmon_temperature_celsius{{{sensor}}}"] = millidegrees / 1000
        found[f"hwmon_temperature_max_celsius{{{sensor}}}"] = 55
        found[f"hwmon_temperature_critical_celsius{{{sensor}}}"] = 85
        found[f"dimm_temperature_celsius{{{dimm}}}"] = millidegrees / 1000
        found[f"dimm_limit_celsius{{{dimm}}}"] = 85
        found[f"dimm_headroom_celsius{{{dimm}}}"] = 85 - millidegrees / 1000
    return found


def _expected_errors() -> dict[str, float]:
    found: dict[str, float] = {}
    for controller, counts in CORRECTED.items():
        found[f'edac_correctable_errors_total{{controller="{controller}"}}'] = sum(counts)
        found[f'edac_uncorrectable_errors_total{{controller="{controller}"}}'] = 0
        for slot, count in enumerate(counts):
            labels = f'{{controller="{controller}",dimm="dimm{slot}",label="{_label(controller, slot)}"}}'
            found[f"edac_dimm_correctable_errors_total{labels}"] = count
            found[f"edac_dimm_uncorrectable_errors_total{labels}"] = 0
            module = f'dimm="{_label(controller, slot)}",node="{controller[2:]}"'
            found[f'dimm_correctable_errors_total{{{module},source="edac"}}'] = count
            found[f'dimm_uncorrectable_errors_total{{{module},source="edac"}}'] = 0
            found[f'dimm_sensor_info{{{module},sensor="{controller}/dimm{slot}",source="edac"}}'] = 1
    for zone, (name, energy) in MICROJOULES.items():
        found[f'powercap_energy_joules_total{{name="{name}",zone="{zone}"}}'] = energy / 1e6
    return found


def _expected_log() -> dict[str, float]:
    kill = 'cgroup="/system.slice/vllm.service",constraint="memory_policy",nodes="1",victim="python3"'
    kills = {"none": 0, "cpuset": 0, "memory_policy": 1, "memcg": 0}
    return {
        **{f'kmsg_oom_kills_total{{constraint="{constraint}"}}': count for constraint, count in kills.items()},
        f"kmsg_last_oom_kill_timestamp_seconds{{{kill}}}": BOOTED + KILLED / 1e6,
        "kmsg_throttle_messages_total": 1,
        "kmsg_machine_checks_total": 0,
    }
