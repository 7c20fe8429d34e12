"""
Access to the machine: its files, CPU lists, NUMA nodes, values, a cache, and reads with a time budget each.

Imports nothing else of this package; makes no sample of its own, and only the face and the collectors import it.
"""
