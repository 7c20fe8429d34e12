"""
Talks to a BMC by IPMI, in-band or over LAN: sessions, sensor records, readings and the event log. It imports `_host`
and no collector; only this folder imports pyghmi.

Serves the collector `ipmi`.
"""
