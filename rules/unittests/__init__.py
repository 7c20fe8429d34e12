"""
`steadytok rules test`: reads, runs and reports unit tests of rule files in promtool's format.

Feeds the samples of a test file to the agent's own rule evaluator. The running agent imports nothing of this room.
"""
