"""
Stores recent samples in columns, by series and time, and takes snapshots that other threads may read. It knows samples
and matchers, but no expressions and no rules.
"""
