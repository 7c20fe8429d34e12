"""
The small privileged program that carries out fixed verbs on this host, for the agent and nobody else.

It stands apart: standard library only, met over a Unix socket, no network, no shell. Whatever holds a host back is a
lease that ends by itself, so that a host is at full speed again although nobody is left to put things back.
"""

VERSION = "1"
