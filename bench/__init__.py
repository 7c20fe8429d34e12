"""Measures the agent against its peers and budgets, as ratios within one run; not part of the package."""
