"""
The lowest room: collectors read kernel files and yield Samples, one file per subsystem, named as the kernel names it.
They import no other collector and no other room, and decide nothing about the values that they read.

The folder is the list: every file without a leading underscore is a collector.

The contract of a collector module, all of it. Required:

    METRICS                 tuple of every Metric whose name is known in advance
    collect(host)           yields Readings; collect(host, config) if the module has a Config

Optional, about its passes:

    INTERVAL = 1.0          minimum seconds between passes; host.again(seconds) asks for a longer pause once
    DEADLINE = 0.5          seconds after which a pass counts as overrun
    ISOLATED = False        True: it runs in the eye, a process that can be killed
    PRIVILEGED = False      True: it runs in the eye where systemd starts the eye, which may then read more
    UEVENTS = ()            udev subsystems, such as "hwmon", whose events make a pass due

Optional, about its configuration:

    Config                  a frozen msgspec Struct with defaults: the operator's keys under `collectors.<name>`
    Config.find_faults()    yields (key, sentence) for each value of the operator that cannot be used
    with_engines(config, engines) -> Config
                            adds the engines of `engines:` and the canary, given as EngineAddress, to the Config;
                            called again when the canary's URL is known
    CONFIG_DOCUMENTED = True
                            False: the operator writes none of the Config's keys, so the page of settings omits them
    sandbox_addresses(config)
                            returns the addresses, HOST or HOST:PORT, that it connects to: the installed service can
                            reach no others

Optional, for `steadytok check`:

    HINT_ABSENT             one sentence for a machine where the collector finds nothing: the reason, or what to do
    HINT_REFUSED            one sentence on what to do when the kernel refuses readings to this user
    explain(samples)        yields lines for the operator about the Samples of a pass, such as what needs a setting

A join has, instead of collect:

    AFTER = (names)         the collectors whose Samples it is made from
    AWAITS = ()             the first names of AFTER: their first Samples come before those of the others
    join(readings, host)    yields Readings; join(readings, host, config) if the module has a Config. `readings` maps
                            a collector's name to its newest Samples. The join runs for each source by itself, since
                            its Readings are recorded together with those of that source

Files that outlast the process (host.cache) only save time, such as a list that a BMC takes ten seconds to give.
"""

from collectors._engine.address import EngineAddress
from collectors._host.files import ABSENT_ERRNOS
from collectors._host.host import Host
from collectors._host.http_answers import HttpAnswer, HttpAnswerError, HttpRedirectError, request_http
from collectors._host.names import natural
from collectors._host.pending_reads import ReadAbandonedError
from collectors._host.regular_files import (
    NotRegularFileError,
    check_regular_file,
    read_regular_file,
    read_regular_file_or_pipe,
)
from collectors._host.sample import Labels, Metric, Note, Reading, Sample, counter, gauge

__all__ = [
    "ABSENT_ERRNOS",
    "EngineAddress",
    "Host",
    "HttpAnswer",
    "HttpAnswerError",
    "HttpRedirectError",
    "Labels",
    "Metric",
    "NotRegularFileError",
    "Note",
    "ReadAbandonedError",
    "Reading",
    "Sample",
    "check_regular_file",
    "counter",
    "gauge",
    "natural",
    "read_regular_file",
    "read_regular_file_or_pipe",
    "request_http",
]
