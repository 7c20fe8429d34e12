"""
IPMI: sessions with a BMC in-band and over LAN, its sensor records, readings and event log.

Furniture of the collector `ipmi`, and the only place that imports pyghmi; it yields no sample itself.
"""
