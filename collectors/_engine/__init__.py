"""
Parses engines' expositions, and maps each kind of engine's metric names to common signals. It imports no other
furniture and no collector, and opens no connection.

Serves the collector `engine`.
"""
