"""
Parses engines' expositions, and maps each kind of engine's metric names to common signals.

Serves the collector `engine`. Imports no other furniture and no collector; opens no connection.
"""
