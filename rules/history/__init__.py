"""
What is remembered: samples in columns, by series and time, and snapshots of them that threads may read.

Knows samples and matchers; expressions and rules are above it.
"""
