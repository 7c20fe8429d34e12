"""
Lists the cpufreq policies that have a CPU online, and the CPUs of each.

A policy is the folder sys/devices/system/cpu/cpufreq/policyN. Kernels before 4.3, and some vendors' kernels, have only
cpuN/cpufreq, once for each CPU of a policy. https://docs.kernel.org/admin-guide/pm/cpufreq.html
"""

from __future__ import annotations

import re

from collectors._host.cpulist import parse_cpulist
from collectors._host.host import Host

CPU_FOLDER = "sys/devices/system/cpu"


class PolicyList:
    """The folder and the CPUs of each policy, by the policy's number; CPUs are read once."""

    def __init__(self) -> None:
        self.folders: dict[str, str] = {}
        self._cpus: dict[str, frozenset[int]] = {}

    def refresh(self, host: Host) -> None:
        """Reads which policies have a CPU online: reading the others fails with EBUSY."""
        online = read_cpu_set(host, "online")
        self.folders = {
            policy: folder
            for policy, folder in _list_folders(host).items()
            if not online or self._read_cpus(host, policy, folder, online) & online
        }

    def get_cpus(self, policy: str) -> frozenset[int]:
        """Returns the CPUs of a policy, which is named after one of them."""
        return self._cpus.get(policy, frozenset((int(policy),)))

    def _read_cpus(self, host: Host, policy: str, folder: str, online: frozenset[int]) -> frozenset[int]:
        if policy not in self._cpus and int(policy) in online:
            cpus = _read_related_cpus(host, folder)
            if cpus:
                self._cpus[policy] = cpus
        return self.get_cpus(policy)


def read_cpu_set(host: Host, file: str) -> frozenset[int]:
    """Returns the CPUs in one of the files online and isolated; none where it is absent or no list."""
    return frozenset(parse_cpulist(host.read(f"{CPU_FOLDER}/{file}", optional=True) or "") or ())


def _list_folders(host: Host) -> dict[str, str]:
    names = (re.fullmatch(r"policy(\d+)", name) for name in host.names(f"{CPU_FOLDER}/cpufreq"))
    folders = {match[1]: f"{CPU_FOLDER}/cpufreq/{match[0]}" for match in names if match}
    return folders or _list_folders_of_cpus(host)


def _list_folders_of_cpus(host: Host) -> dict[str, str]:
    """Returns one folder for each policy: that of its first CPU."""
    cpus = [match[1] for name in host.names(CPU_FOLDER) if (match := re.fullmatch(r"cpu(\d+)", name))]
    folders = {cpu: f"{CPU_FOLDER}/cpu{cpu}/cpufreq" for cpu in cpus if host.exists(f"{CPU_FOLDER}/cpu{cpu}/cpufreq")}
    firsts: dict[str, str] = {}
    covered: set[int] = set()
    for cpu, folder in folders.items():  # in the order of their numbers
        if int(cpu) not in covered:
            firsts[cpu] = folder
            covered |= _read_related_cpus(host, folder)
    return firsts


def _read_related_cpus(host: Host, folder: str) -> frozenset[int]:
    words = (host.read(f"{folder}/related_cpus") or "").split()
    return frozenset(map(int, words)) if all(word.isdecimal() for word in words) else frozenset()
