"""
The agent: samples the host, evaluates rules, sends alerts and acts on them.

Imports `rules` and `collectors`; nothing imports the agent.
"""
