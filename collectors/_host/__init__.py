"""
The machine that is looked at: its root, files, CPU lists, nodes, the cache, and reads with a time budget.

Furniture of the collectors: imported by them and by the face, never by another room; it yields no sample itself.
"""
