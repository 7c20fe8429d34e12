"""
Measures the agent itself: the definitions of its metrics, their readings, its CPU and memory.

Reads only the agent's own processes and counters; `collectors/` measures the host.
"""
