"""The documentation pages, and the program that generates the reference pages: `python -m docs`."""
