"""
Go's text/template as Prometheus uses it in annotations: lexer, parser, interpreter and functions.

Expands text within a budget of work. Reads no file, and reaches the outside only through the given query function.
"""
