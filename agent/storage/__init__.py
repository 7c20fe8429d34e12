"""
Files of the state folder: opened, written atomically, checked, and set aside when they are unsound.

Knows bytes, paths and SQLite; what a file means belongs to the room that writes it.
"""
