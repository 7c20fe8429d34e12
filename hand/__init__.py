"""
The small privileged program that carries out fixed verbs on this host, for the agent and nobody else. It imports the
standard library alone, listens on a Unix socket, and uses no network and no shell.

Every setting that slows a host down is a lease that expires by itself: the host returns to full speed even when the
agent is gone.
"""

VERSION = "1"
