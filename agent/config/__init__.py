"""
The configuration file: its schema, its reader, its validation, and the keys that a reload can change. No plug-in is
imported here; callers pass the configuration classes of plug-ins.
"""
