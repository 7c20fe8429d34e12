"""
The configuration file: its schema, its reader, its validation, and the keys that a reload can change.

Callers pass the configuration classes of plug-ins; no plug-in is imported here.
"""
