"""
What engines expose: reading an exposition, and the metric names of each kind of engine.

Furniture of the collector `engine`; it yields no sample itself.
"""
