"""
What the agent learns about inference engines: baselines of their speed, the canary, their learnt placement.

Reads history and writes readings; it neither samples engines (a collector does) nor acts on them.
"""
