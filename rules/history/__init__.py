"""
Stores recent samples in columns, by series and time, and takes snapshots that other threads may read.

Knows samples and matchers. Expressions and rules are in the rooms above.
"""
