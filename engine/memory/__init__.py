"""
The engine's memory: the need of a model, the limits of host, node and cgroup, and the NUMA policy. It sizes and binds,
but loads no tensor and serves no request.
"""
