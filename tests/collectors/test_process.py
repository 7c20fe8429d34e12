"""The collector process against this machine's own kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import pytest

from collectors import Host, Reading, process
from collectors._process.targets import ProcessTarget
from tests.machines.processes import start_child

Series = Callable[[Iterable[Reading]], dict[str, float]]


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_this_kernel_is_asked(series: Series) -> None:
    """On this machine a process's shares by node add up to 1, each with an error."""
    host = Host("/")
    with start_child(64) as pid:
        config = process.Config(engines=(ProcessTarget(name="held", pid=pid),), discover=False)
        values = series(process.collect(host, config))
    notes = host.take_notes()
    if not os.path.exists("/sys/devices/system/node/node0") or notes:
        pytest.skip(f"this kernel does not tell where pages are: {notes}")

    shares = [value for name, value in values.items() if "node_share_ratio" in name]
    assert sum(shares) == pytest.approx(1.0)
    assert values['steadytok_process_sampled_pages{engine="held",kind="anon",rank="0"}'] > 3000
    assert values['steadytok_process_memory_bytes{engine="held",kind="anon",rank="0"}'] > 64 << 20
