"""
The documentation pages, and the program that generates the reference pages: `python -m docs`. It reads the code that it
documents, and the running agent imports nothing of it.
"""
