"""
Opens, checks and atomically writes the files of the state folder, and moves damaged ones aside. It knows only bytes,
paths and SQLite; the meaning of a file belongs to the room that writes it.
"""
