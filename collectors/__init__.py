"""
The ground floor: kernel files in, Samples out. One file per subsystem, named as the kernel names it.

The contract of a collector module, all of it:

    METRICS                 tuple of every Metric it yields whose name is known in advance
    collect(host)           yields Readings; collect(host, config) where the module has a Config
    INTERVAL = 1.0          seconds between passes, at least: host.again(seconds) asks for a longer time to the next one
    DEADLINE = 0.5          seconds after which a pass counts as overrun
    ISOLATED = False        True: gather runs it in the eye, a process that can be killed
    PRIVILEGED = False      True: where systemd runs the eye, which may read more than the agent, it runs there too
    Config                  a frozen msgspec Struct with defaults: the operator's keys under `collectors.<name>`
    AFTER = (names)         with join(readings, host) instead of collect, or join(readings, host, config): made from the
                            Samples of those collectors, which come as a mapping from a collector's name to its newest
                            Samples; of each source by itself, since they are recorded together with its own
    AWAITS = ()             those of AFTER, the first ones, whose first Samples come before any of the others'

What must outlast the process (host.shelf) is a saving, such as a list that takes a BMC ten seconds to give.

The folder is the list: a file without a leading underscore is a collector. Collectors do not import each other.
"""

from collectors._host.host import Host, Note, natural
from collectors._host.sample import Labels, Metric, Reading, Sample, counter, gauge

__all__ = ["Host", "Labels", "Metric", "Note", "Reading", "Sample", "counter", "gauge", "natural"]
