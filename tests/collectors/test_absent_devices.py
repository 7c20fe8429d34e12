"""
Devices whose driver is loaded without the hardware: opening them is answered with ENXIO, and that is absence.

A socket in the file system gives the same answer to open(2) as such a device: ENXIO.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.sampling.passes import Outcome, collect_readings
from collectors import Host, hsmp, ipmi, kmsg

DEVICES = {"dev/hsmp": hsmp, "dev/ipmi0": ipmi, "dev/kmsg": kmsg}


@contextmanager
def open_nothing(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
            os.open(path, os.O_RDONLY)
        yield


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_without_hardware_is_absent(device: str, tmp_path: Path) -> None:
    """The collector finds nothing and has not failed, so that check shows its hint and no alert fires."""
    module, host = DEVICES[device], Host(tmp_path)
    host.live = True  # devices are opened only on the running machine, and this is its root
    config = (module.Config(),) if hasattr(module, "Config") else ()
    with open_nothing(tmp_path / device):
        result = collect_readings(device, lambda: module.collect(host, *config), host, 0.0)

    assert (result.samples, result.notes, result.error) == ((), (), None)
    assert result.outcome is Outcome.ABSENT
