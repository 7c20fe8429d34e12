"""
Reads kernel interfaces that several collectors share, or that need a protocol: meminfo, /dev/kmsg, AMD's /dev/hsmp. It
imports `_host` and no collector, and makes no decision about what is reported.
"""
