"""
The configuration file: its schema, reading it, what is refused in it, and which keys a reload may change.

Plug-ins' own configuration classes are handed in; no plug-in is imported here.
"""
