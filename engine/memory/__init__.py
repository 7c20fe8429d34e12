"""
Where the engine's memory goes: what a model needs, what the host, node and cgroup allow, NUMA policy.

Sizes and binds; it neither loads a tensor nor serves a request.
"""
