"""
CPU frequency per policy, and the driver, governor and energy preference that control it.

Reads sys/devices/system/cpu/cpufreq/policy*/, or cpu*/cpufreq on old kernels, once per policy. https://docs.kernel.org/admin-guide/pm/cpufreq.html

Never reads cpuinfo_cur_freq: for root that interrupts the CPU and waits for it. scaling_cur_freq does the same on x86
with kernels 4.13 to 5.17, and also sleeps 10 ms (https://github.com/prometheus/node_exporter/issues/1086). There a pass
reads a few policies of each node in turn. Where a read interrupts the CPU, isolated CPUs are skipped. The cppc_cpufreq
driver may never answer (https://github.com/prometheus/node_exporter/issues/3791), hence the eye.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from collectors import Host, Reading, gauge
from collectors._host.nodes import read_cpus_by_node
from collectors._kernel.cpufreq_policies import PolicyList, read_cpu_set
from collectors._kernel.osrelease import read_kernel_version

INTERVAL = 5.0
DEADLINE = 2.0
ISOLATED = True

FREQUENCY = gauge(
    "steadytok_cpufreq_frequency_hertz",
    "Frequency now (scaling_cur_freq); on x86 with Linux 4.13 to 5.17 up to 2 minutes old, since policies take turns.",
)
MAXIMUM = gauge(
    "steadytok_cpufreq_frequency_max_hertz",
    "Highest frequency of the hardware (cpuinfo_max_freq), read again every 30 s.",
)
LIMIT = gauge(
    "steadytok_cpufreq_frequency_limit_hertz",
    "Highest frequency that is allowed now (scaling_max_freq), read again every 30 s.",
)
POLICIES = gauge(
    "steadytok_cpufreq_policies", "Policies with this driver, governor and energy preference, read again every 30 s."
)
METRICS = (FREQUENCY, MAXIMUM, LIMIT, POLICIES)
HINT_ABSENT = "no cpufreq driver: usual in a virtual machine; on hardware check the firmware's power settings"
UEVENTS = ("cpu",)

_SETTINGS_EVERY = 6  # passes; each pass reads the settings of a part of the policies
_PER_NODE = 2  # policies of one node that a pass reads where each read interrupts its CPU
_ROTATION = 24  # maximum passes until every policy has been read again
_WORD = re.compile(r"[a-z][a-z0-9_-]*")
_X86_DRIVERS = ("acpi-cpufreq", "intel_", "amd-pstate", "amd_pstate", "pcc-cpufreq", "powernow")


class _Settings(NamedTuple):
    """The operator's settings, and the hardware's own limit; hertz."""

    driver: str | None
    governor: str | None
    preference: str | None
    maximum: float | None
    limit: float | None

    @property
    def is_complete(self) -> bool:
        """True where all was readable that every driver has."""
        return None not in (self.driver, self.governor, self.maximum, self.limit)


class _CpufreqState:
    """State from pass to pass."""

    def __init__(self) -> None:
        self.pass_count = 0
        self.settings: dict[str, _Settings] = {}
        self.policies = PolicyList()
        self.frequencies: dict[str, float] = {}


def collect(host: Host) -> Iterator[Reading]:
    """Reads the policies that have a CPU online."""
    state = host.get_state(_CpufreqState)
    nodes = _map_policies_to_nodes(host, state, _list_policies(host, state))
    for position, policy in enumerate(nodes):
        # Missing settings are read in each pass, so that their loss stays visible.
        is_due = (state.pass_count + position) % _SETTINGS_EVERY == 0
        if is_due or policy not in state.settings or not state.settings[policy].is_complete:
            state.settings[policy] = _read_settings(host, state.policies.folders[policy])
    due = _select_due(host, state, nodes)
    for policy, node in nodes.items():
        settings = state.settings[policy]
        yield MAXIMUM.sample(settings.maximum, policy=policy, node=node)
        yield LIMIT.sample(settings.limit, policy=policy, node=node)
        if policy in due:
            yield FREQUENCY.sample(_read_frequency(host, state, policy), policy=policy, node=node)
        elif policy in state.frequencies:
            yield FREQUENCY.sample(state.frequencies[policy], policy=policy, node=node)
    yield from _count_settings(state.settings[policy] for policy in nodes)
    state.pass_count += 1


def _list_policies(host: Host, state: _CpufreqState) -> list[str]:
    state.policies.refresh(host)
    for removed in state.settings.keys() - state.policies.folders.keys():
        state.settings.pop(removed)
        state.frequencies.pop(removed, None)
    return list(state.policies.folders)


def _map_policies_to_nodes(host: Host, state: _CpufreqState, policies: list[str]) -> dict[str, str]:
    """Returns the node of each policy's CPUs; empty where no node lists them."""
    node_by_cpu = {cpu: node for node, cpus in read_cpus_by_node(host).items() for cpu in cpus}
    cpus = {policy: sorted(state.policies.get_cpus(policy)) for policy in policies}
    return {policy: next((node_by_cpu[cpu] for cpu in cpus[policy] if cpu in node_by_cpu), "") for policy in policies}


def _read_settings(host: Host, folder: str) -> _Settings:
    return _Settings(
        driver=_read_word(host, folder, "scaling_driver"),
        governor=_read_word(host, folder, "scaling_governor"),
        preference=_read_word(host, folder, "energy_performance_preference", optional=True),
        maximum=_read_hertz(host, folder, "cpuinfo_max_freq"),
        limit=_read_hertz(host, folder, "scaling_max_freq"),
    )


def _read_word(host: Host, folder: str, file: str, *, optional: bool = False) -> str | None:
    path = f"{folder}/{file}"
    text = host.read(path, optional=optional)
    if text is not None and _WORD.fullmatch(text) is None:
        # A preference may also be a raw number: https://docs.kernel.org/admin-guide/pm/intel_pstate.html
        return text if optional and text.isdecimal() else host.note(path, f"expected one word, found {text[:40]!r}")
    return text


def _read_hertz(host: Host, folder: str, file: str) -> float | None:
    path = f"{folder}/{file}"
    kilohertz = host.read_int(path)
    if kilohertz is not None and not 0 < kilohertz < 100_000_000:
        return host.note(path, f"expected kilohertz, found {kilohertz}")
    return None if kilohertz is None else kilohertz * 1000.0


def _read_frequency(host: Host, state: _CpufreqState, policy: str) -> float | None:
    state.frequencies.pop(policy, None)
    if (hertz := _read_hertz(host, state.policies.folders[policy], "scaling_cur_freq")) is not None:
        state.frequencies[policy] = hertz
    return hertz


def _select_due(host: Host, state: _CpufreqState, nodes: dict[str, str]) -> set[str]:
    """Returns the policies whose frequency this pass reads."""
    old_kernel = (4, 13) <= read_kernel_version(host) < (5, 18)
    interrupting = {policy for policy in nodes if _interrupts_cpu(state.settings[policy].driver, old_kernel)}
    if not interrupting:
        return set(nodes)
    isolated = read_cpu_set(host, "isolated")
    disturbed = {policy for policy in interrupting if int(policy) in isolated}
    takes_turns = [policy for policy in nodes if old_kernel and policy in interrupting and policy not in disturbed]
    return (set(nodes) - disturbed - set(takes_turns)) | _select_turn(takes_turns, nodes, state.pass_count)


def _interrupts_cpu(driver: str | None, old_kernel: bool) -> bool:
    return driver == "cppc_cpufreq" or (old_kernel and driver is not None and driver.startswith(_X86_DRIVERS))


def _select_turn(policies: list[str], nodes: dict[str, str], pass_count: int) -> set[str]:
    by_node: dict[str, list[str]] = defaultdict(list)
    for policy in policies:
        by_node[nodes[policy]].append(policy)
    shares = ((members, max(_PER_NODE, -(-len(members) // _ROTATION))) for members in by_node.values())
    return {members[(pass_count * share + step) % len(members)] for members, share in shares for step in range(share)}


def _count_settings(settings: Iterable[_Settings]) -> Iterator[Reading]:
    complete = [policy for policy in settings if policy.driver and policy.governor]
    counts = Counter((policy.driver or "", policy.governor or "", policy.preference or "") for policy in complete)
    for (driver, governor, preference), count in counts.items():
        yield POLICIES.sample(count, driver=driver, governor=governor, energy_performance_preference=preference)
