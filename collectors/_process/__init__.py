"""
Reads processes: their tree, command lines, cgroups, memory maps, pages, sockets and requested placement. It imports
`_host` and no collector, and changes nothing about a process.

Serves the collectors `process` and `engine`.
"""
