"""
Primitives of a running process: clock, scheduler, threads, child processes, TLS, systemd's notification socket.

Stands on the standard library and its wrappers alone, and imports no other room.
"""
