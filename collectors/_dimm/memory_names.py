"""
Decides whether a sensor belongs to a memory module, by the entity that it is on and by its name: the one rule for all.

Words are matched whole (`GPU1`, not `GPUs`), since a prefix would let in whatever a vendor names next. What is named
after memory is often something else: the memory of a GPU, the regulators and buffers beside the modules, their air.
"""

from __future__ import annotations

import re

MEMORY_ENTITIES = (8, 32)
"""IPMI's entities of memory: module, device."""

MODULE_CHIPS = ("jc42", "spd5118")
"""Drivers of the sensors that only memory modules have: DDR4 and DDR5."""

OTHER_DEVICE = "the memory of another device and not a module"
_REGULATOR = "a voltage regulator, which runs hotter than the modules beside it"


def _match_words(words: str) -> re.Pattern[str]:
    r"""Compiles words that no letter continues; \b takes `_` for a letter and `1` too, hence the explicit edges."""
    return re.compile(rf"(?<![A-Za-z])(?:{words})(?![A-Za-z])", re.IGNORECASE)


# VR_DIMMG0_TEMP, P1 MEM01 VRD Hot, P1_VRMABC, MemVR, VDIMM, MEM_VDDQ, PVDDQ_ABC; a DDR5 module has its own regulator.
_REGULATORS = _match_words(
    r"(?:P|C)?V(?:R[MD]?(?-i:[A-P]{1,8})?|RHOT|DD\w*|PP|TT|NN\w*|IN|OUT|CC\w*|[-_ ]?DIMM\w*|[-_ ]?MEM\w*)"
    r"|(?:MEM|DIMM|DDR)VR[MD]?|PMIC|DrMOS"
)
_FOREIGN = (
    (_REGULATORS, _REGULATOR),
    # GPU1 Mem Temp, gpu0_mem_temp, HGX_GPU_0_DRAM_0, NVMe, NIC_Mem, and the BMC's own memory
    (
        _match_words(
            r"(?:GP)?GPU|VGA|[XNDIT]PU|HBM\w*|ACC(?:EL(?:ERATOR)?)?|OAM|SXM|FPGA|NIC|OCP|MEZZ(?:ANINE)?|LOM|HCA|HBA|RAID"
            r"|PCI[EX]?|PEX|SWITCH|NVME|M\.2|SSD|HDD|PSU|BMC"
        ),
        OTHER_DEVICE,
    ),
    (_match_words(r"EXTMB|(?:MEM[-_ ]?)?BUFF?(?:ER)?|CENTAUR"), "a buffer chip, which has its own limit"),
    (_match_words(r"INLET|OUTLET|INTAKE|EXHAUST|AMBIENT|AIR\w*"), "the air and not a module"),
)
_STATE = re.compile(r"Thrm[\s_]?Trip|(?<![A-Za-z])hot$", re.IGNORECASE)
_ZONE = _match_words(r"ZONE")
# MEM01, MEM_A and MEMAB, whose last letters are channels
_MEMORY = re.compile(
    r"DIMM|(?<![A-Za-z])(?:MEM(?:ORY|(?-i:[A-P]{1,4})\d{0,2})?(?![A-Za-z])|DDR[2-6]?(?![A-Za-z0-9]))", re.IGNORECASE
)


def is_named_after_memory(name: str) -> bool:
    """Returns True for a name with DIMM, MEM or DDR."""
    return _MEMORY.search(name) is not None


def is_regulator(name: str) -> bool:
    """Returns True for the name of a voltage regulator."""
    return _REGULATORS.search(name) is not None


def explain_foreign(name: str) -> str | None:
    """Returns what else a sensor measures, if its name says so, whatever its entity; None otherwise."""
    return next((reason for pattern, reason in _FOREIGN if pattern.search(name)), None)


def is_memory(name: str, entity: int | None) -> bool:
    """Returns True for a sensor on memory: by its entity, or by its name, unless the name says otherwise."""
    return (entity in MEMORY_ENTITIES or is_named_after_memory(name)) and explain_foreign(name) is None


def explain_refusal(name: str, entity: int | None) -> str | None:
    """Returns the reason why a sensor belongs to no memory module; None if it belongs to one."""
    if (foreign := explain_foreign(name)) is not None:
        return foreign
    if _STATE.search(name):
        return "a state and no temperature"
    if _ZONE.search(name):
        return "the air of a zone and not a module"
    return None if is_memory(name, entity) else "neither on memory nor named after it"
