"""
Go's text/template as Prometheus uses it in annotations: lexer, parser, interpreter and functions.

Expands text within a budget of effort; it reads no file, and asks only the query function that it is handed.
"""
