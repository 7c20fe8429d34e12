"""
Memory errors, corrected and not, per memory controller and per DIMM.

Reads sys/devices/system/edac/mc/mc*/. https://docs.kernel.org/admin-guide/ras.html

Most current servers have only dimm*/ or rank*/ folders there (55 of 55 hosts in
https://github.com/prometheus/node_exporter/issues/3722). Where both layouts exist they count the same errors, so the
older csrow*/ folders are read only where they are alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from collectors import Host, Reading, counter

INTERVAL = 60.0

CORRECTABLE = counter(
    "steadytok_edac_correctable_errors_total", "Memory errors that the controller corrected, since its driver loaded."
)
UNCORRECTABLE = counter(
    "steadytok_edac_uncorrectable_errors_total", "Memory errors beyond correction, since the driver loaded."
)
DIMM_CORRECTABLE = counter(
    "steadytok_edac_dimm_correctable_errors_total", "Errors corrected in one DIMM, since the driver loaded."
)
DIMM_UNCORRECTABLE = counter(
    "steadytok_edac_dimm_uncorrectable_errors_total",
    "Errors beyond correction in one DIMM, since the driver loaded; absent where the kernel counts them per row only.",
)
METRICS = (CORRECTABLE, UNCORRECTABLE, DIMM_CORRECTABLE, DIMM_UNCORRECTABLE)
HINT_ABSENT = (
    "sudo modprobe skx_edac, i10nm_edac or amd64_edac, whichever this platform has; a virtual machine has none"
)
UEVENTS = ("edac",)

_FOLDER = "sys/devices/system/edac/mc"


def collect(host: Host) -> Iterator[Reading]:
    """Reads the controllers."""
    for controller in _list_numbered(host, _FOLDER, "mc"):
        path = f"{_FOLDER}/{controller}"
        yield CORRECTABLE.sample(_read_count(host, f"{path}/ce_count"), controller=controller)
        if host.exists(f"{path}/ue_count"):  # some drivers do not count them
            yield UNCORRECTABLE.sample(_read_count(host, f"{path}/ue_count"), controller=controller)
        dimms = [name for kind in ("dimm", "rank") for name in _list_numbered(host, path, kind)]
        has_counts = any(host.exists(f"{path}/{name}/dimm_ce_count") for name in dimms)  # since Linux 4.7
        yield from _collect_dimms(host, controller, dimms) if has_counts else _collect_rows(host, controller)


def _list_numbered(host: Host, path: str, kind: str) -> list[str]:
    return [name for name in host.names(path) if re.fullmatch(rf"{kind}\d+", name)]


def _collect_dimms(host: Host, controller: str, dimms: list[str]) -> Iterator[Reading]:
    for dimm in dimms:
        path = f"{_FOLDER}/{controller}/{dimm}"
        labels = {"controller": controller, "dimm": dimm, "label": _read_label(host, f"{path}/dimm_label")}
        yield DIMM_CORRECTABLE.sample(_read_count(host, f"{path}/dimm_ce_count"), **labels)
        if host.exists(f"{path}/dimm_ue_count"):
            yield DIMM_UNCORRECTABLE.sample(_read_count(host, f"{path}/dimm_ue_count"), **labels)


def _collect_rows(host: Host, controller: str) -> Iterator[Reading]:
    for row in _list_numbered(host, f"{_FOLDER}/{controller}", "csrow"):
        path = f"{_FOLDER}/{controller}/{row}"
        for file in host.names(path):
            match = re.fullmatch(r"(ch\d+)_ce_count", file)
            if match is not None:
                label = _read_label(host, f"{path}/{match[1]}_dimm_label")
                dimm = f"{row}_{match[1]}"
                count = _read_count(host, f"{path}/{file}")
                yield DIMM_CORRECTABLE.sample(count, controller=controller, dimm=dimm, label=label)


def _read_label(host: Host, path: str) -> str:
    """Returns the name printed on the board beside the DIMM, as firmware or the operator gave it to the kernel."""
    return host.read(path, optional=True) or ""


def _read_count(host: Host, path: str) -> int | None:
    value = host.read_int(path)
    return host.note(path, f"expected 0 or more, found {value}") if value is not None and value < 0 else value
