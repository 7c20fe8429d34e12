"""
Text for people and back: units, printable characters, the terminal and the log.

Values in, text out; nothing here reads the host or the state folder.
"""
