"""
CPU frequency per policy, and which driver, governor and energy preference rule it.

Reads sys/devices/system/cpu/cpufreq/policy*/, once per policy. https://docs.kernel.org/admin-guide/pm/cpufreq.html

Never cpuinfo_cur_freq: for root it interrupts the CPU and waits for it. scaling_cur_freq does the same on x86 with
kernels 4.13 to 5.17, and sleeps 10 ms besides (https://github.com/prometheus/node_exporter/issues/1086); there a pass
reads a few policies of each node in turn. Where a read interrupts the CPU, isolated CPUs are left alone. The
cppc_cpufreq driver may never answer (https://github.com/prometheus/node_exporter/issues/3791), hence the eye.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from collectors import Host, Reading, gauge
from collectors._host.cpulist import parse_cpulist
from collectors._host.nodes import cpus_by_node

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
    "steadytok_cpufreq_policies",
    "Policies with this driver, governor and energy preference, read again every 30 s.",
)
METRICS = (FREQUENCY, MAXIMUM, LIMIT, POLICIES)

_CPU = "sys/devices/system/cpu"
_SETTINGS_EVERY = 6  # passes; a policy's settings are read in one of them, so that no pass reads all
_PER_NODE = 2  # policies of one node read in a pass where each read interrupts its CPU
_ROTATION = 24  # passes at most until each has been read again
_WORD = re.compile(r"[a-z][a-z0-9_-]*")
_X86_DRIVERS = ("acpi-cpufreq", "intel_", "amd-pstate", "amd_pstate", "pcc-cpufreq", "powernow")


class _Settings(NamedTuple):
    """What an operator sets, and the hardware's own limit; hertz."""

    driver: str | None
    governor: str | None
    preference: str | None
    maximum: float | None
    limit: float | None


class _Kept:
    """What is remembered from pass to pass."""

    def __init__(self) -> None:
        self.turn = 0
        self.settings: dict[str, _Settings] = {}
        self.cpus: dict[str, frozenset[int]] = {}
        self.frequencies: dict[str, float] = {}


def collect(host: Host) -> Iterator[Reading]:
    """One pass over the policies that have a CPU online."""
    kept = host.kept(_Kept)
    nodes = _nodes(host, kept, _policies(host, kept))
    for position, policy in enumerate(nodes):
        if policy not in kept.settings or (kept.turn + position) % _SETTINGS_EVERY == 0:
            kept.settings[policy] = _settings(host, policy)
    due = _due(host, kept, nodes)
    for policy, node in nodes.items():
        name, settings = policy.removeprefix("policy"), kept.settings[policy]
        yield MAXIMUM.sample(settings.maximum, policy=name, node=node)
        yield LIMIT.sample(settings.limit, policy=name, node=node)
        if policy in due:
            yield FREQUENCY.sample(_frequency(host, kept, policy), policy=name, node=node)
        elif policy in kept.frequencies:
            yield FREQUENCY.sample(kept.frequencies[policy], policy=name, node=node)
    yield from _states(kept.settings[policy] for policy in nodes)
    kept.turn += 1


def _policies(host: Host, kept: _Kept) -> list[str]:
    online = _cpu_set(host, "online")
    found = [name for name in host.names(f"{_CPU}/cpufreq") if re.fullmatch(r"policy\d+", name)]
    # A policy whose CPUs are all offline stays in the folder, and each of its files answers EBUSY.
    active = [name for name in found if not online or _cpus(host, kept, name, online) & online]
    for gone in kept.settings.keys() - set(active):
        kept.settings.pop(gone)
        kept.frequencies.pop(gone, None)
    return active


def _number(policy: str) -> int:
    return int(policy.removeprefix("policy"))


def _cpu_set(host: Host, file: str) -> frozenset[int]:
    return frozenset(parse_cpulist(host.read(f"{_CPU}/{file}", optional=True) or "") or ())


def _cpus(host: Host, kept: _Kept, policy: str, online: frozenset[int]) -> frozenset[int]:
    """The CPUs under a policy; it is named after one of them."""
    number = _number(policy)
    if policy not in kept.cpus and number in online:
        words = (host.read(f"{_CPU}/cpufreq/{policy}/related_cpus") or "").split()
        if words and all(word.isdecimal() for word in words):
            kept.cpus[policy] = frozenset(map(int, words))
    return kept.cpus.get(policy, frozenset((number,)))


def _nodes(host: Host, kept: _Kept, policies: list[str]) -> dict[str, str]:
    """The node of each policy's CPUs; an empty one where no node lists them."""
    of_cpu = {cpu: node for node, cpus in cpus_by_node(host).items() for cpu in cpus}
    cpus = {policy: sorted(kept.cpus.get(policy, (_number(policy),))) for policy in policies}
    return {policy: next((of_cpu[cpu] for cpu in cpus[policy] if cpu in of_cpu), "") for policy in policies}


def _settings(host: Host, policy: str) -> _Settings:
    return _Settings(
        driver=_word(host, policy, "scaling_driver"),
        governor=_word(host, policy, "scaling_governor"),
        preference=_word(host, policy, "energy_performance_preference", optional=True),
        maximum=_hertz(host, policy, "cpuinfo_max_freq"),
        limit=_hertz(host, policy, "scaling_max_freq"),
    )


def _word(host: Host, policy: str, file: str, *, optional: bool = False) -> str | None:
    path = f"{_CPU}/cpufreq/{policy}/{file}"
    text = host.read(path, optional=optional)
    if text is not None and _WORD.fullmatch(text) is None:
        # Preferences may be a raw number too: https://docs.kernel.org/admin-guide/pm/intel_pstate.html
        return text if optional and text.isdecimal() else host.note(path, f"expected one word, found {text[:40]!r}")
    return text


def _hertz(host: Host, policy: str, file: str) -> float | None:
    path = f"{_CPU}/cpufreq/{policy}/{file}"
    kilohertz = host.read_int(path)
    if kilohertz is not None and not 0 < kilohertz < 100_000_000:
        return host.note(path, f"expected kilohertz, found {kilohertz}")
    return None if kilohertz is None else kilohertz * 1000.0


def _frequency(host: Host, kept: _Kept, policy: str) -> float | None:
    kept.frequencies.pop(policy, None)
    if (hertz := _hertz(host, policy, "scaling_cur_freq")) is not None:
        kept.frequencies[policy] = hertz
    return hertz


def _due(host: Host, kept: _Kept, nodes: dict[str, str]) -> set[str]:
    """The policies whose frequency is read in this pass."""
    old = (4, 13) <= _kernel(host) < (5, 18)
    interrupting = {policy for policy in nodes if _interrupts(kept.settings[policy].driver, old)}
    if not interrupting:
        return set(nodes)
    isolated = _cpu_set(host, "isolated")
    disturbed = {policy for policy in interrupting if _number(policy) in isolated}
    takes_turns = [policy for policy in nodes if old and policy in interrupting and policy not in disturbed]
    return (set(nodes) - disturbed - set(takes_turns)) | _turn(takes_turns, nodes, kept.turn)


def _interrupts(driver: str | None, old: bool) -> bool:
    return driver == "cppc_cpufreq" or (old and driver is not None and driver.startswith(_X86_DRIVERS))


def _turn(policies: list[str], nodes: dict[str, str], turn: int) -> set[str]:
    by_node: dict[str, list[str]] = defaultdict(list)
    for policy in policies:
        by_node[nodes[policy]].append(policy)
    chosen: set[str] = set()
    for members in by_node.values():
        share = max(_PER_NODE, -(-len(members) // _ROTATION))
        chosen.update(members[(turn * share + step) % len(members)] for step in range(share))
    return chosen


def _kernel(host: Host) -> tuple[int, int]:
    match = re.match(r"(\d{1,3})\.(\d{1,3})", host.read("proc/sys/kernel/osrelease", optional=True) or "")
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _states(settings: Iterable[_Settings]) -> Iterator[Reading]:
    known = [each for each in settings if each.driver and each.governor]
    counts = Counter((each.driver or "", each.governor or "", each.preference or "") for each in known)
    for (driver, governor, preference), count in counts.items():
        yield POLICIES.sample(count, driver=driver, governor=governor, energy_performance_preference=preference)
