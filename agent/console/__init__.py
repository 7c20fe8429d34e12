"""
What a terminal shows of a host: the panels' lines, the live table of `run` and of `top`.

Formats what it is given and what a running agent answers; it samples nothing and decides nothing.
"""
