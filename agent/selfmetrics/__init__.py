"""
What the agent says about itself: its metrics' definitions, their readings, its CPU and memory.

Only the agent's own processes and counters are read here; what the host does is measured in `collectors/`.
"""
