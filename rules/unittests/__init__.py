"""
`steadytok rules test`: reads, runs and reports unit tests of rule files in promtool's format, with the agent's own rule
evaluator. The running agent imports nothing of this room.
"""
