"""
Measures the agent against its peers and budgets, as ratios within one run. It is not part of the package, and no room
imports it.
"""
