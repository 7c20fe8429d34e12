"""What mends a collector that has nothing to say: one command or one sentence for each, for `steadytok check`."""

from __future__ import annotations

from agent.sampling.sampler import REFUSAL_REASONS, CollectionResult, Outcome

_HINTS_REFUSED = {
    "kmsg": "sudo setcap cap_syslog+ep on a private interpreter, or run as the systemd service",
    "ipmi": "/dev/ipmi0 is root's; run as root or as the systemd service, or let the BMC be asked over the LAN",
    "dmi": "only root may read the firmware's tables: run as the systemd service; without, DIMMs are named by sensor",
    "powercap": "readable by root only since Linux 5.4.77 (PLATYPUS); run as the systemd service",
    "process": "where pages are is told to root only (CAP_SYS_PTRACE); run as the systemd service",
}
_HINTS_ABSENT = {
    "pressure": "boot with psi=1 (some distributions switch PSI off)",
    "hwmon": "sudo modprobe -a jc42 spd5118 coretemp (on many servers only the BMC sees the DIMMs)",
    "ipmi": "sudo modprobe -a ipmi_si ipmi_devintf, or name the BMC: collectors.ipmi.address and credentials_file",
    "edac": "sudo modprobe skx_edac, i10nm_edac or amd64_edac, whichever this platform has; a virtual machine has none",
    "cpufreq": "no cpufreq driver: usual in a virtual machine; on hardware check the firmware's power settings",
    "thermal_throttle": "Intel processors only, and not where firmware owns the thermal interrupt",
    "powercap": "sudo modprobe intel_rapl_msr; virtual machines have none",
    "dimm": "made from the DIMM sensors of hwmon, ipmi and hsmp, and from edac's errors",
    "dmi": "no tables of the firmware: usual in a container; some virtual machines have none",
    "hsmp": "AMD EPYC from Zen 3 on: sudo modprobe amd_hsmp, with HSMP enabled in the firmware",
    "resctrl": "sudo mount -t resctrl resctrl /sys/fs/resctrl, where the processor counts traffic (grep cqm_mbm "
    "/proc/cpuinfo); the agent never mounts it",
    "engine": "name your engines under engines: in the configuration",
    "process": "no engine runs, or none that is known: name it under collectors.process.engines in the configuration",
    "kmsg": "no /dev/kmsg here: usual in a container",
}


def find_hint(result: CollectionResult) -> str:
    """What would make the collector give something, in one sentence; empty where it does."""
    if result.outcome is Outcome.ABSENT:
        return _HINTS_ABSENT.get(result.collector, "this kernel or machine does not have it")
    has_refusals = any(note.reason in REFUSAL_REASONS for note in result.notes)
    if result.outcome is Outcome.REFUSED or (result.outcome is Outcome.OK and has_refusals):
        return _HINTS_REFUSED.get(result.collector, "run as root, or as the systemd service")
    if result.outcome is Outcome.FAILED:
        return result.error or "; ".join(f"{note.path}: {note.reason}" for note in result.notes[:2])
    return ""
