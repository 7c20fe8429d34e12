"""
The subcommands, one file each: a command reads its options, calls the rooms below and prints. It decides nothing about
alerts and remedies, and no other room of the agent imports it.

A file is imported only when its command runs: all of them together take half a second.
"""
