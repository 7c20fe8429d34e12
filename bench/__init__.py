"""Measures the agent against its peers and its budgets, as ratios within one run; nothing here is shipped."""
