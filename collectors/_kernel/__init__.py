"""
Reads kernel interfaces that several collectors share, or that need a protocol: meminfo, /dev/kmsg, AMD's /dev/hsmp.

Imports `_host` and no collector; makes no decision about what is reported.
"""
