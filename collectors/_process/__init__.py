"""
What is read of a process: its tree, command line, cgroup, maps, pages, sockets and requested placement.

Furniture of the collectors `process` and `engine`; it yields no sample itself.
"""
