"""
Holds the subcommands, one file each. No other room imports a command, and no command imports another.

A file is imported only when its command runs, because importing all of them takes half a second.
"""
