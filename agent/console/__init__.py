"""
The view of a host in a terminal: one overview, one set of rows and one table, for `run` and for `top`.

Reads an overview from inside the agent or over HTTP, and draws it; nothing is sampled or decided here.
"""
