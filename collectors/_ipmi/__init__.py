"""
Talks to a BMC by IPMI, in-band or over LAN: sessions, sensor records, readings and the event log.

Serves the collector `ipmi`. Imports `_host` and no collector; only this folder imports pyghmi.
"""
