"""
Parses the names of memory sensors and slots into processor, channel and module number.

Vendors differ, and some have several styles:

- Supermicro `P1-DIMMA1 Temp`, NEC `CPU1_DIMM1 Temp`, Kontron `Temp DIMM#1`, Lenovo `DIMM 1 Temp`, Dell `A1`
- Cisco `DDR4_P1_A1_TMP`, ASRock Rack `TEMP_DDR5_A1`
- HPE `04-P1 DIMM 1-6`, Supermicro `DIMMA~F Temp`: one sensor for six modules
- Gigabyte `DIMMG0_TEMP`, Huawei `CPU1 MEM Temp`: a group of modules
- Intel `DIMM Thrm Mrgn 1`
- AMD's own firmware `P0 CHANNEL A` with `DIMM 0`
- EDAC `CPU_SrcID#0_MC#0_Chan#1_DIMM#0`
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Slot(NamedTuple):
    """The parts of a name; numbers and letters as in the name, None or empty where it lacks them."""

    name: str
    socket: int | None = None
    channel: str = ""
    number: int | None = None
    is_group: bool = False
    """True where one sensor stands for several modules."""

    @property
    def is_specific(self) -> bool:
        """True where the name says more than that this is memory."""
        return bool(self.channel) or self.number is not None


# \b takes `_` for a letter, hence the explicit edges of words.
_DECORATION = re.compile(r"(?:^|[\s_.-]+)(?:temp(?:erature)?|tmp)(?=$|[\s_.-])[\s_.-]*|^\d\d-(?=P\d)", re.I)
_SOCKET = re.compile(r"(?<![A-Za-z0-9])(?:P|CPU|PROC|SOCKET|CPU_SrcID)[\s_#-]?(\d)(?!\d)", re.I)
_CHANNEL = re.compile(r"(?<![A-Za-z])CH(?:AN(?:NEL)?)?[\s_#-]*([A-Z]|\d{1,2})(?![A-Za-z0-9])", re.I)
_CONTROLLER = re.compile(r"(?<![A-Za-z])MC#\d", re.I)
_LETTER_SOCKET = re.compile(r"([A-D])(\d{1,2})")  # Dell: A1 to A16 belong to processor 1
_FORMS = (
    re.compile(
        r"(?:DIMM|DDR[2-6])(?:[\s_#-]*(?:P|CPU)\d)?[\s_#-]*(?P<channel>[A-Z])[\s_#-]?(?P<number>\d{1,2})(?!\d)", re.I
    ),
    re.compile(r"DIMM[\s_#-]*(?P<number>\d{1,2})(?P<channel>[A-Z])(?![A-Za-z])", re.I),
    re.compile(r"DIMM[\s_#-]*(?P<channel>[A-Z])(?![A-Za-z0-9])", re.I),
    re.compile(r"DIMM[\s_#-]*(?P<number>\d{1,2})(?!\d)", re.I),
    re.compile(r"(?<![A-Za-z0-9])C(?P<channel>\d)D(?P<number>\d)(?!\d)", re.I),
)
_GROUPS = (
    re.compile(r"DIMM[\s_#-]*\d+\s*[-~]\s*\d+", re.I),  # HPE: P1 DIMM 1-6
    re.compile(r"DIMM[\s_#-]*[A-Z]\d?\s*[-~]\s*[A-Z]\d?(?![A-Za-z0-9])", re.I),  # Supermicro: DIMMA~F
    re.compile(r"DIMM(?:[\s_#-]+[A-Z]{2,}|(?-i:[A-Z]{2,}))$", re.I),  # Temp_DIMM_KLM, DIMMABCD: several channels
    re.compile(r"^(?:P|CPU|PROC|SOCKET)[\s_#-]?\d[\s_-]*(?:MEM(?:ORY)?|DIMMS?)$", re.I),  # Huawei: CPU1 MEM
    re.compile(r"DIMM[\s_]Thrm[\s_](?:Mrgn|Margin)", re.I),
)


def parse_slot(name: str) -> Slot:
    """Parses one name."""
    plain = strip_decoration(name)
    dell = _LETTER_SOCKET.fullmatch(plain)
    if dell is not None:
        return Slot(plain, socket=ord(dell[1]) - ord("A") + 1, number=int(dell[2]))
    match = _SOCKET.search(plain)
    socket = int(match[1]) if match is not None else None
    if any(group.search(plain) for group in _GROUPS):
        return Slot(plain, socket, is_group=True)
    channel = _CHANNEL.search(plain)
    if channel is not None and _CONTROLLER.search(plain):
        # Each memory controller counts its channels anew, and the board's letters do not follow the driver's numbers.
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
    Parses all names of one source.

    If G is the only letter, it names no channel: `DIMMG0` and `DIMMG1` are groups of modules (Gigabyte, Inspur).
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
            name: Slot(parsed_slot.name, is_group=True) if parsed_slot.name in groups else parsed_slot
            for name, parsed_slot in parsed.items()
        }
    return parsed


def strip_decoration(name: str) -> str:
    """Removes the words of a sensor's name that only mean temperature; a name of nothing else stays."""
    # In the middle of a name it leaves a blank: `DIMM1 Temp 1` is no DIMM11.
    return _DECORATION.sub(_replace_decoration, name).strip() or name.strip()


def _replace_decoration(match: re.Match[str]) -> str:
    return " " if match.start() > 0 and match.end() < len(match.string) else ""


def normalize_name(name: str) -> str:
    """Reduces a name to its letters and numbers, for comparison; two numbers stay two."""
    apart = re.sub(r"(?<=[0-9])[^a-z0-9]+(?=[0-9])", ".", strip_decoration(name).lower())
    return re.sub(r"[^a-z0-9.]|(?<![0-9])\.|\.(?![0-9])", "", apart)


def matches_slot(candidate: Slot, known_slot: Slot) -> bool:
    """Returns True where a name may mean a slot: all its parts are true there, and it omits no channel."""
    return (
        candidate.is_specific
        and not candidate.is_group
        and candidate.channel == known_slot.channel
        and candidate.number == known_slot.number
        and candidate.socket in (None, known_slot.socket)
    )
