"""
Access to the machine: its files, CPU lists, NUMA nodes, values, a cache, and reads with a time budget each. It imports
nothing else of this package and makes no sample of its own; only the face and the collectors import it.
"""
