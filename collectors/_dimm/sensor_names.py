"""
What the names of memory sensors and slots say: which processor, which channel, which module.

Each vendor has its own way, and some have several: Supermicro `P1-DIMMA1 Temp`, NEC `CPU1_DIMM1 Temp`, HPE
`04-P1 DIMM 1-6` (one sensor for six), Gigabyte `DIMMG0_TEMP` (a group), Intel `DIMM Thrm Mrgn 1`, Kontron
`Temp DIMM#1`, Lenovo `DIMM 1 Temp`, Dell `A1`, AMD's own firmware `P0 CHANNEL A` with `DIMM 0`, EDAC's
`CPU_SrcID#0_MC#0_Chan#1_DIMM#0`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MEMORY_ENTITIES = ("8", "32")  # of IPMI: memory module, memory device


class Slot(NamedTuple):
    """What a name says; numbers and letters as the name has them, None or empty where it does not say."""

    name: str
    socket: int | None = None
    channel: str = ""
    number: int | None = None
    group: bool = False
    """Whether one sensor stands for several modules."""

    @property
    def is_specific(self) -> bool:
        """Whether the name tells more than that this is memory."""
        return bool(self.channel) or self.number is not None


# `_` counts as a letter for \b, so that the edges of words are written out.
_DECORATION = re.compile(r"(?:^|[\s_.-]+)temp(?:erature)?(?=$|[\s_.-])[\s_.-]*|^\d\d-(?=P\d)", re.I)
_REGULATOR = re.compile(r"(?<![A-Za-z])V(?:R[MD]?|DD\w*|PP|TT|DIMM\w*|MEM\w*)(?![A-Za-z])", re.I)
_ZONE = re.compile(r"(?<![A-Za-z])zone(?![A-Za-z])", re.I)
_TRIP = re.compile(r"Thrm[\s_]?Trip|(?<![A-Za-z])hot$", re.I)
_MEMORY = re.compile(r"DIMM|(?<![A-Za-z])MEM", re.I)
_SOCKET = re.compile(r"(?<![A-Za-z0-9])(?:P|CPU|PROC|SOCKET|CPU_SrcID)[\s_#-]?(\d)(?!\d)", re.I)
_CHANNEL = re.compile(r"(?<![A-Za-z])CH(?:AN(?:NEL)?)?[\s_#-]*([A-Z]|\d{1,2})(?![A-Za-z0-9])", re.I)
_CONTROLLER = re.compile(r"(?<![A-Za-z])MC#\d", re.I)
_LETTER_SOCKET = re.compile(r"([A-D])(\d{1,2})")  # Dell: A1 to A16 are processor 1's
_FORMS = (
    re.compile(r"DIMM(?:[\s_#-]*(?:P|CPU)\d)?[\s_#-]*(?P<channel>[A-Z])[\s_#-]?(?P<number>\d{1,2})(?!\d)", re.I),
    re.compile(r"DIMM[\s_#-]*(?P<number>\d{1,2})(?P<channel>[A-Z])(?![A-Za-z])", re.I),
    re.compile(r"DIMM[\s_#-]*(?P<channel>[A-Z])(?![A-Za-z0-9])", re.I),
    re.compile(r"DIMM[\s_#-]*(?P<number>\d{1,2})(?!\d)", re.I),
    re.compile(r"(?<![A-Za-z0-9])C(?P<channel>\d)D(?P<number>\d)(?!\d)", re.I),
)
_GROUPS = (
    re.compile(r"DIMM[\s_#-]*\d+\s*-\s*\d+", re.I),  # HPE: P1 DIMM 1-6
    re.compile(r"DIMM[\s_#-]+[A-Z]{2,}$", re.I),  # Temp_DIMM_KLM: three channels
    re.compile(r"DIMM[\s_]Thrm[\s_](?:Mrgn|Margin)", re.I),
)


def refusal_reason(name: str, entity: str) -> str | None:
    """Why a sensor is none of a memory module, in words; None where it is one."""
    if _REGULATOR.search(name):
        return "a voltage regulator, which runs hotter than the modules beside it"
    if _TRIP.search(name):
        return "a state, which tells no temperature"
    if _ZONE.search(name):
        return "the air of a zone and no module"
    if entity not in MEMORY_ENTITIES and not _MEMORY.search(name):
        return "neither on memory nor named after it"
    return None


def parse_slot(name: str) -> Slot:
    """What a name says."""
    plain = strip_decoration(name)
    dell = _LETTER_SOCKET.fullmatch(plain)
    if dell is not None:
        return Slot(plain, socket=ord(dell[1]) - ord("A") + 1, number=int(dell[2]))
    match = _SOCKET.search(plain)
    socket = int(match[1]) if match is not None else None
    if any(group.search(plain) for group in _GROUPS):
        return Slot(plain, socket, group=True)
    channel = _CHANNEL.search(plain)
    if channel is not None and _CONTROLLER.search(plain):
        # The channel is counted anew in each memory controller, and letters on a board follow no rule of the driver's.
        return Slot(plain, socket)
    form = next((form for pattern in _FORMS if (form := pattern.search(plain)) is not None), None)
    if form is None:
        return Slot(plain, socket, channel[1].upper() if channel is not None else "")
    fields = form.groupdict()
    letter = channel[1] if channel is not None else fields.get("channel") or ""
    number = fields.get("number")
    return Slot(plain, socket, letter.upper(), int(number) if number is not None else None)


def parse_slots(names: Iterable[str]) -> dict[str, Slot]:
    """
    What all names of one source say.

    Where G is the only letter it is no channel: `DIMMG0` and `DIMMG1` are groups of modules (Gigabyte, Inspur).
    """
    parsed = {name: parse_slot(name) for name in names}
    lettered = [
        parsed_slot for parsed_slot in parsed.values() if parsed_slot.channel.isalpha() and parsed_slot.socket is None
    ]
    if lettered and all(
        parsed_slot.channel == "G" and re.search(r"DIMMG\d", parsed_slot.name, re.I) for parsed_slot in lettered
    ):
        groups = {parsed_slot.name for parsed_slot in lettered}
        parsed = {
            name: Slot(parsed_slot.name, group=True) if parsed_slot.name in groups else parsed_slot
            for name, parsed_slot in parsed.items()
        }
    return parsed


def strip_decoration(name: str) -> str:
    """A sensor's name without what only says that it is a temperature; what is nothing but that stays."""
    return _DECORATION.sub("", name).strip() or name.strip()


def normalize_name(name: str) -> str:
    """A name for comparing: letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", strip_decoration(name).lower())


def matches_slot(candidate: Slot, known_slot: Slot) -> bool:
    """Whether a name may mean a slot: all that it says is true there, and no channel is passed over in silence."""
    return (
        candidate.is_specific
        and not candidate.group
        and candidate.channel == known_slot.channel
        and candidate.number == known_slot.number
        and candidate.socket in (None, known_slot.socket)
    )
