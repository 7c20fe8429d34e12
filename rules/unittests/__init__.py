"""
`steadytok rules test`: promtool's unit tests of rule files, read, run and reported.

Runs the same evaluator as the agent over written samples; nothing of it is imported by the running agent.
"""
