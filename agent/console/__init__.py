"""
Shows a host in a terminal: reads an overview from inside the agent or over HTTP, and draws it, for `run` and for `top`.
Nothing is sampled or decided here.
"""
