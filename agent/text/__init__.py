"""
Formats text for people, and parses theirs: units, printable characters, the terminal and the log. Nothing here reads
the host or the state folder.
"""
