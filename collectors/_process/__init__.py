"""
Reads processes: their tree, command lines, cgroups, memory maps, pages, sockets and requested placement.

Serves the collectors `process` and `engine`. Imports `_host` and no collector.
"""
