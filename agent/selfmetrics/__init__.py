"""
Measures the agent itself: the definitions of its metrics, their readings, its CPU and memory. It reads nothing of the
host but the agent's own processes; `collectors/` measures the host.
"""
