"""
Primitives of a running process: clock, scheduler, threads, child processes, TLS, systemd's notification socket. It uses
only the standard library and its wrappers, and imports no other room.
"""
