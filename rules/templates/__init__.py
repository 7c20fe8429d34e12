"""
Go's text/template as Prometheus uses it in annotations: lexer, parser, interpreter and functions. It works within a
budget, reads no file, and reaches the outside only through the given query function.
"""
